"""The device under test, and what can be asked of its host."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from ballonet.conform.device.session import DeviceSession
from ballonet.virtio.features import BALLOON_FEATURES, Feature

__all__ = ["EVERYTHING", "HostControl", "Rig"]

#: What a check negotiates unless it wants something else.
EVERYTHING = BALLOON_FEATURES | Feature.EVENT_IDX | Feature.VERSION_1 | Feature.INDIRECT_DESC


class HostControl(Protocol):
    """The host's side of the device, as a monitor or a migration uses it."""

    def set_target(self, pages: int) -> None:
        """Ask for a balloon of so many balloon pages."""
        ...

    def actual_pages(self) -> int:
        """What the host believes to be in the balloon."""
        ...

    def set_poll_interval(self, seconds: int) -> None:
        """Ask for statistics again and again. Raises: GuestError."""
        ...

    def statistics(self) -> dict[str, int]:
        """The last values, by QEMU's keys."""
        ...

    def begin_hints(self) -> None:
        """Begin a migration's pass."""
        ...

    def end_hints(self) -> None:
        """Let the migration end."""
        ...

    def cancel_hints(self) -> None:
        """Give the migration up."""
        ...

    def was_skipped(self, pfn: int) -> bool:
        """The migration, which has ended, did not send this page because of a hint."""
        ...


class Rig(Protocol):
    """Makes sessions with a fresh device, or a device that was reset."""

    name: str
    control: HostControl | None

    def session(
        self,
        wanted: Feature = EVERYTHING,
        *,
        packed: bool = False,
        legacy: bool = False,
        big_pages: bool = False,
    ) -> AbstractContextManager[DeviceSession]:
        """A session. Raises: NotApplicable, if the device cannot be had that way."""
        ...
