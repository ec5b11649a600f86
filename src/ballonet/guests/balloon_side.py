"""What the embedded guest needs of its balloon, whatever protocol its driver speaks."""

from __future__ import annotations

from typing import Protocol

from ballonet.kernel.tasks import Job

__all__ = ["BalloonSide"]


class BalloonSide(Protocol):
    """A driver in the guest's kernel, and its way to the device or host."""

    @property
    def is_connected(self) -> bool:
        """There is a device; else it is looked for."""
        ...

    @property
    def deadline_ns(self) -> int | None:
        """When a lost device is to be looked for, by the host's clock."""
        ...

    @property
    def actual_pages(self) -> int:
        """What the driver has in the balloon, in pages of 4 KiB."""
        ...

    def start(self) -> None:
        """Find the device and take it into use. Raises: GuestError."""
        ...

    def reconnect(self) -> None:
        """Look for a device that is lost, if it is time."""
        ...

    def facts(self) -> dict[str, object]:
        """What whoever asks the guest for its driver is told; JSON takes it."""
        ...

    def freeze(self) -> Job[None]:
        """Empty the balloon and let go of the device, as before hibernation.

        Raises: UsageError, if the driver has no such thing.
        """
        ...

    def restore(self) -> Job[None]:
        """Take the device into use again. Raises: UsageError, GuestError."""
        ...

    def remove(self) -> Job[None]:
        """Let go of the device for good, as a driver does whose module is removed."""
        ...

    def close(self) -> None:
        """Hang up; safe to call again."""
        ...
