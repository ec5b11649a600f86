"""What the host's end of a balloon that is not virtio's can be told and asked.

Both siblings have this shape, so that whoever serves, controls or records one of them knows neither
protocol.
Not here: messages and calls, which each protocol has its own of (vmware, hyperv).
Units: 4 KiB balloon pages, nanoseconds of the host's clock.
"""

from __future__ import annotations

from typing import Protocol

from ballonet.balloon.given_memory import GivenMemory
from ballonet.balloon.memory import BalloonMemory
from ballonet.balloon.request import TargetRequest

__all__ = ["SiblingHost"]


class SiblingHost(Protocol):
    """One host, of one guest after another."""

    @property
    def kind(self) -> str:
        """Which protocol it speaks: "vmware" or "hyperv"."""
        ...

    @property
    def given(self) -> GivenMemory:
        """The memory it was given; observers are told, and pages counted, there."""
        ...

    @property
    def request(self) -> TargetRequest:
        """The newest change of the target, and how far it is."""
        ...

    @property
    def target_pages(self) -> int:
        """What the host wants in the balloon."""
        ...

    @property
    def actual_pages(self) -> int:
        """What is in it, as the host counts."""
        ...

    @property
    def is_running(self) -> bool:
        """A driver has introduced itself, and was accepted."""
        ...

    @property
    def broken(self) -> str | None:
        """How the driver broke the conversation; None if it did not."""
        ...

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What was negotiated, in the protocol's words; nothing while no driver is there."""
        ...

    @property
    def deadline_ns(self) -> int | None:
        """When `expired` is to be called next; None: nothing waits."""
        ...

    def attach(self, memory: BalloonMemory) -> None:
        """A guest has come, with all of its memory."""
        ...

    def detach(self) -> None:
        """It has gone: all that is known of it is forgotten, the target is kept."""
        ...

    def set_target(self, pages: int) -> None:
        """Ask for so many pages in the balloon."""
        ...

    def expired(self, *, busy: bool = False) -> bool:
        """Do what time has come for; True if more is to be done at once.

        `busy`: the guest has more to say, so that what may wait does.
        """
        ...

    def describe(self) -> dict[str, object]:
        """The protocol's own figures, as JSON takes them; words are joined by dashes."""
        ...
