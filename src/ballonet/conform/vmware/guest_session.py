"""A guest of VMware's balloon under a host that a check plays, and what can be seen of it.

Units: 4 KiB pages.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

from ballonet.conform.checks import Failed, NotApplicable
from ballonet.conform.vmware.scripted_host import ScriptedHost, audit
from ballonet.vmware.calls import ALL_CAPABILITIES, HUGE_PAGES, Capability, Command

__all__ = [
    "GuestRig",
    "GuestSession",
    "check_accounts",
    "fill",
    "need_doubt",
    "recover",
    "wait_for_questions",
]

T = TypeVar("T")

#: What a check gives and takes to see whether a guest is well.
_SOME_PAGES = 2000


class GuestSession(Protocol):
    """One guest, running, whose driver has found its host."""

    host: ScriptedHost
    memory_pages: int
    is_timed: bool  #: time passes as the check says, so that it can be measured
    is_trusting: bool  #: its kernel believes the host whatever it says, and would not survive a lie
    free_doubt_pages: int  #: by so much `free_pages` may differ for other reasons

    def tell(self, action: Callable[[ScriptedHost], T]) -> T:
        """Do something with the host, between two calls."""
        ...

    def rest(self, seconds: float) -> None:
        """Let time pass."""
        ...

    def until(self, condition: Callable[[], bool]) -> bool:
        """Let time pass until something is so; False if it does not come."""
        ...

    @property
    def actual_pages(self) -> int:
        """What the driver believes to be in its balloon."""
        ...

    @property
    def balloon_pages(self) -> int:
        """What is in it by the answers it has had; to wait for: the guest is not asked."""
        ...

    @property
    def free_pages(self) -> int:
        """What nobody in the guest uses."""
        ...

    def is_alive(self) -> bool:
        """A program of the guest does its work, and finds its memory as it left it."""
        ...

    def compact(self) -> None:
        """Make free memory contiguous, which moves pages."""
        ...

    def press(self) -> None:
        """A process takes as much as there is. Raises: NotApplicable."""
        ...

    def silence(self, *, is_silent: bool) -> None:
        """Leave calls unanswered, or answer again. Raises: NotApplicable."""
        ...

    def ring(self) -> None:
        """Ring the driver's doorbell. Raises: NotApplicable."""
        ...

    def leave(self) -> None:
        """Unload the driver. Raises: NotApplicable."""
        ...


class GuestRig(Protocol):
    """Starts guests, or finds one that runs."""

    name: str

    def session(
        self, offered: Capability = ALL_CAPABILITIES, *, shrinks: bool = False
    ) -> AbstractContextManager[GuestSession]:
        """A session with a host that offers so much; the balloon is empty.

        `shrinks`: the driver is to give way to a kernel that needs memory.
        Raises: NotApplicable, if that cannot be had.
        """
        ...


def check_accounts(session: GuestSession) -> set[int]:
    """Both ends know the same pages; those in the balloon. Raises: Failed."""
    locked = session.tell(lambda host: audit(host.record, session.memory_pages))
    if not session.until(lambda: session.actual_pages == len(locked)):
        raise Failed(f"the driver has {session.actual_pages} pages, of {len(locked)} given")
    return locked


def fill(session: GuestSession, pages: int) -> int:
    """Want so many pages, and wait; pages in the balloon, which may be 511 more. Raises: Failed."""
    session.tell(lambda host: host.set_target(pages))
    most = pages + (HUGE_PAGES if pages else 1)
    if not session.until(lambda: pages <= session.balloon_pages < most):
        raise Failed(f"the balloon stays at {session.balloon_pages} of {pages} pages")
    return len(check_accounts(session))


def need_doubt(session: GuestSession) -> None:
    """Raises: NotApplicable, if the guest would believe a lie of its host."""
    if session.is_trusting:
        raise NotApplicable("this guest's kernel believes its host, and would not survive it")


def recover(session: GuestSession, free_pages: int, pages: int = _SOME_PAGES) -> str:
    """A right host comes after a bad one: all is well again, and no page is missing.

    `free_pages`: as it was with an empty balloon before; `pages`: to be given and had back.
    Raises: Failed.
    """

    def come(host: ScriptedHost) -> None:
        host.play(None)
        host.set_target(0)
        host.reset_guest()

    started = len(session.host.said(Command.START))
    session.tell(come)
    if not session.until(lambda: len(session.host.said(Command.START)) > started):
        raise Failed("it does not begin anew with a host that is right")
    fill(session, pages)
    fill(session, 0)
    if not session.is_alive():
        raise Failed("a program in the guest does not do its work any more")
    missing = free_pages - session.free_pages
    if abs(missing) > session.free_doubt_pages:
        raise Failed(f"{missing} pages are missing in the guest")
    return "no page is missing afterwards"


def wait_for_questions(session: GuestSession, count: int) -> None:
    """Let the driver ask for its target so many times. Raises: Failed."""
    before = len(session.host.said(Command.GET_TARGET))
    if not session.until(lambda: len(session.host.said(Command.GET_TARGET)) >= before + count):
        raise Failed("it does not ask for its target any more")
