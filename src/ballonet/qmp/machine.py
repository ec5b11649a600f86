"""What a monitor shows and changes: one machine with one balloon.

Nothing here waits for the guest.  What is shown is known at once; what is changed is done when the
device has been told, and a client's next command is obeyed after that.
Units: bytes; `logical_bytes` is memory less the balloon, which is what QMP speaks of.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import NamedTuple, Protocol

from ballonet.qmp.version import QemuVersion

__all__ = ["HvBalloonReports", "MonitoredHints", "MonitoredMachine"]


class MonitoredHints(Protocol):
    """Pages that a migration need not send, as the guest's driver hints them in rounds."""

    def begin(self, lease_s: int) -> Awaitable[int]:
        """Ask for hints, for so many seconds at most; the id of the round."""
        ...

    def take(self, cmd_id: int, runs_max: int) -> Awaitable[dict[str, object]]:
        """A part of what was hinted in a round, for `x-ballonet-take-hints`."""
        ...

    def stop(self, lease_s: int) -> Awaitable[None]:
        """End the round: no hint of it comes after this."""
        ...

    def finish(self) -> Awaitable[None]:
        """Let the guest take its pages back."""
        ...


class HvBalloonReports(NamedTuple):
    """The newest status report of a Hyper-V guest, in bytes; None: none came."""

    are_enabled: bool
    committed_bytes: int | None
    available_bytes: int | None


class MonitoredMachine(Protocol):
    """The machine behind a monitor."""

    balloon_id: str  #: the last part of its path in the object tree
    name: str | None  #: of the guest
    version: QemuVersion  #: that its monitor speaks as

    @property
    def balloon_type(self) -> str:
        """Which device the balloon is, as QEMU names its types."""
        ...

    @property
    def hv_balloon(self) -> HvBalloonReports | None:
        """What a balloon of Hyper-V's kind was told; None, if it is of another kind."""
        ...

    @property
    def hints(self) -> MonitoredHints:
        """Free page hints, for a migration."""
        ...

    @property
    def ram_bytes(self) -> int | None:
        """Memory of the guest; None while there is no guest with a balloon."""
        ...

    @property
    def logical_bytes(self) -> int:
        """Memory less what the driver says is in the balloon."""
        ...

    @property
    def running(self) -> bool:
        """Not stopped by `stop`."""
        ...

    @property
    def stats(self) -> dict[str, int]:
        """The newest statistics by our names; only what the driver sent."""
        ...

    @property
    def stats_last_update_s(self) -> int:
        """Time of day of the newest statistics, in seconds since 1970; 0 if there are none."""
        ...

    @property
    def poll_interval_s(self) -> int:
        """Seconds between questions for statistics; 0: none are asked."""
        ...

    def set_logical_bytes(self, size: int) -> Awaitable[None]:
        """Ask for a balloon that leaves the guest this much, at most all of it."""
        ...

    def set_poll_interval(self, seconds: int) -> Awaitable[None]:
        """Ask for statistics so often; the value was checked."""
        ...

    def stop(self) -> Awaitable[None]:
        """Let the time of the statistics stand still."""
        ...

    def cont(self) -> Awaitable[None]:
        """Let it go on."""
        ...

    def expedite(self) -> Awaitable[None]:
        """Let the host have at once what is in the balloon and waits for a quiet moment."""
        ...

    def quit(self) -> None:
        """End the device."""
        ...

    def info(self) -> Awaitable[dict[str, object]]:
        """Everything else that is known, for `x-ballonet-info`; all of one moment."""
        ...
