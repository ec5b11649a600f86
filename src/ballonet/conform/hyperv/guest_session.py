"""A guest of Hyper-V's Dynamic Memory under a host that a check plays, and what is seen of it.

Units: 4 KiB pages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import partial
from typing import Final, Protocol, TypeVar

from ballonet.conform.checks import Failed, expect
from ballonet.conform.hyperv.host_session import runs_of
from ballonet.conform.hyperv.scripted_host import Script, ScriptedHost, audit
from ballonet.conform.hyperv.wire import (
    BALLOON_REQUEST,
    BALLOON_RESPONSE,
    RANGES_MAX,
    UNBALLOON_RESPONSE,
    Packet,
    message,
    unballoon_request,
)

__all__ = [
    "GuestRig",
    "GuestSession",
    "ask",
    "balloon_request",
    "check_accounts",
    "give_back",
    "recover",
    "say",
]

T = TypeVar("T")

_SOME_PAGES: Final = 2000


class GuestSession(Protocol):
    """One guest whose driver has found its host."""

    host: ScriptedHost
    memory_pages: int
    is_timed: bool  #: time passes as the check says, so that it can be measured
    is_trusting: bool  #: its kernel believes the host whatever it says, and would not survive a lie
    free_doubt_pages: int  #: by so much `free_pages` may differ for other reasons

    def tell(self, action: Callable[[ScriptedHost], T]) -> T:
        """Do something with the host, between two messages."""
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
    def free_pages(self) -> int:
        """What nobody in the guest uses."""
        ...

    @property
    def available_pages(self) -> int:
        """What programs could have, as the guest itself estimates it."""
        ...

    @property
    def total_pages(self) -> int:
        """What the guest counts as its memory."""
        ...

    def is_alive(self) -> bool:
        """A program of the guest does its work, and finds its memory as it left it."""
        ...

    def set_room(self, *, is_full: bool) -> None:
        """Let the ring to the host be full, or empty again. Raises: NotApplicable."""
        ...

    def leave(self) -> None:
        """Have the driver close the channel. Raises: NotApplicable."""
        ...


class GuestRig(Protocol):
    """Starts guests, or finds one that runs."""

    name: str

    def session(
        self,
        script: Script | None = None,
        *,
        hibernates: bool = False,
        unreported: int = 0,
    ) -> AbstractContextManager[GuestSession]:
        """A session whose balloon is empty; with a script the handshake is the script's.

        `hibernates`: the guest may be hibernated.  `unreported`: status reports that the driver
        does not send, at first.  Raises: NotApplicable, if that cannot be had.
        """
        ...


def balloon_request(pages: int) -> bytes:
    """The host wants so many pages."""
    return message(BALLOON_REQUEST, pages.to_bytes(4, "little") + bytes(4))


def check_accounts(session: GuestSession) -> set[int]:
    """Both ends know the same pages; those that the host has. Raises: Failed."""
    given = session.tell(lambda host: audit(host.record, session.memory_pages))
    if not session.until(lambda: session.actual_pages == len(given)):
        raise Failed(f"the driver has {session.actual_pages} pages, of {len(given)} given")
    return given


def say(session: GuestSession, raw: bytes) -> bool:
    """Have the host say something; False if the ring to the guest is full."""
    return session.tell(lambda host: host.say(raw))


def ask(session: GuestSession, pages: int) -> list[Packet]:
    """Ask for pages and wait for the last answer; all of them. Raises: Failed."""
    start = len(session.host.record)

    def answers() -> list[Packet]:
        return session.host.heard(BALLOON_RESPONSE, start=start)

    say(session, balloon_request(pages))
    if not session.until(lambda: any(not one.has_more for one in answers())):
        raise Failed(f"of {len(answers())} answers to a request for {pages} pages none is the last")
    check_accounts(session)
    return answers()


def give_back(session: GuestSession, pfns: Iterable[int]) -> None:
    """Give pages back, and wait for the answer. Raises: Failed."""
    ranges = runs_of(sorted(pfns))
    start = len(session.host.record)
    parts = [ranges[i : i + RANGES_MAX] for i in range(0, len(ranges), RANGES_MAX)] or [[]]
    for i, part in enumerate(parts):
        raw = unballoon_request(part, more=i + 1 < len(parts))
        if not session.until(partial(say, session, raw)):
            raise Failed("the ring to the guest stays full")
    if not session.until(lambda: bool(session.host.heard(UNBALLOON_RESPONSE, start=start))):
        raise Failed("pages that it gets back are not answered")
    check_accounts(session)


def recover(session: GuestSession, free_pages: int) -> str:
    """A right host comes after a bad one: all is well again, and no page is missing.

    `free_pages`: as it was with an empty balloon before.  Raises: Failed.
    """
    session.tell(lambda host: host.play(None))
    session.rest(1)
    give_back(session, check_accounts(session))
    ask(session, _SOME_PAGES)
    given = check_accounts(session)
    expect("pages that it gives afterwards", len(given), _SOME_PAGES)
    give_back(session, given)
    if not session.is_alive():
        raise Failed("a program in the guest does not do its work any more")
    missing = free_pages - session.free_pages
    if abs(missing) > session.free_doubt_pages:
        raise Failed(f"{missing} pages are missing in the guest")
    return "no page is missing afterwards"
