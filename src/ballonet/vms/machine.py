"""Anybody's virtual machine, whatever is spoken to it.

Each kind of virtual machine monitor has a module of its own that speaks to it, and a row in
adapters.py; those who ask and those who change know this protocol only.  What cannot be told is
None, never a guess.
What a kind of machine can tell at all it declares as its abilities.
Units: bytes left to the guest (logical size), seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Protocol

from ballonet.vms.device_info import DeviceInfo
from ballonet.vms.guest_stats import GuestStats
from ballonet.vms.migration_progress import MigrationLook
from ballonet.vms.observation import MachineId, Observation

__all__ = ["Ability", "Machine", "MachineMigration"]


class Ability(Enum):
    """Something that a machine can tell of its guest."""

    ACTUAL = "actual"  #: how much memory the guest has
    TARGET = "target"  #: how much it was asked to keep
    STATISTICS = "statistics"  #: what the guest says of its memory
    AGE = "age"  #: how old that is
    DRIVER = "driver"  #: whether a driver uses the balloon


class MachineMigration(Protocol):
    """Moving a machine.  Every method raises MonitorError, as those of `Machine` do."""

    async def capabilities(self) -> Mapping[str, bool]:
        """What can be switched on and off, under QEMU's names; what is missing is not known."""
        ...

    async def set_capabilities(self, states: Mapping[str, bool]) -> None:
        """Switch some."""
        ...

    async def parameters(self) -> Mapping[str, int]:
        """What can be changed, under QEMU's names."""
        ...

    async def set_parameters(self, values: Mapping[str, int]) -> None:
        """Change some."""
        ...

    async def begin(self, uri: str, *, resumes: bool = False) -> None:
        """Begin; that it has begun does not mean that the destination is there.

        `resumes`: go on with a post-copy that was interrupted.
        """
        ...

    async def begin_postcopy(self) -> None:
        """Have the guest go on at the destination now; there is no way back."""
        ...

    async def cancel(self) -> None:
        """End it, if it has not ended; it takes a moment."""
        ...

    async def look(self) -> MigrationLook:
        """Where it stands."""
        ...

    async def wait(self, timeout_s: float) -> None:
        """Until the machine tells that something has happened, or time is over."""
        ...

    async def begin_dirty_rate(self, seconds: int) -> None:
        """Measure for so long how much the guest writes. Raises: GuestError, if it cannot."""
        ...

    async def dirty_bytes_per_s(self) -> int | None:
        """What was measured; None: it is not done."""
        ...


class Machine(Protocol):
    """One machine with a balloon.  Every method raises MonitorError, if it is gone or silent."""

    #: Resets so far: what was known of the guest before one is of another kernel.
    resets: int

    @property
    def who(self) -> MachineId:
        """Its name, its kind, where it is reached, its process."""
        ...

    @property
    def abilities(self) -> frozenset[Ability]:
        """What it can tell; the rest is unknown for as long as it lives."""
        ...

    @property
    def size_step_bytes(self) -> int:
        """Its balloon has a multiple of so many bytes; 1: any number of balloon pages."""
        ...

    async def observe(self) -> Observation:
        """Everything that it tells of one moment, and what the host holds for it.

        Asks nothing of the guest.  What is refused, or there is no device for, is unknown.
        """
        ...

    @property
    def migration(self) -> MachineMigration:
        """Its way to another place. Raises: GuestError, if it has none."""
        ...

    @property
    def is_ours(self) -> bool:
        """Its device is ballonet's."""
        ...

    async def ram_bytes(self) -> int | None:
        """All memory of the guest."""
        ...

    async def logical_bytes(self) -> int:
        """What the guest has now. Raises: GuestError, if that is not told."""
        ...

    async def set_logical_bytes(self, size: int) -> None:
        """Ask for another size; the guest keeps no less, and has done nothing yet after this."""
        ...

    async def is_paused(self) -> bool:
        """Its processors stand still."""
        ...

    async def has_driver(self) -> bool | None:
        """A driver uses the balloon."""
        ...

    async def deflates_on_oom(self) -> bool:
        """The guest's kernel may take memory out of the balloon, and counts it as its own."""
        ...

    async def hints_free_pages(self) -> bool:
        """The device offers free page hints, which a migration leaves out. Raises: GuestError."""
        ...

    async def guest_stats(self) -> GuestStats:
        """The newest statistics, however old. Raises: GuestError, if there is no balloon."""
        ...

    async def poll_interval(self) -> int:
        """Seconds between questions; 0: none are asked. Raises: GuestError."""
        ...

    async def set_poll_interval(self, seconds: int) -> None:
        """Ask the guest for statistics so often; at once, if it was not asked before."""
        ...

    def detour_interval(self, interval_s: int) -> int:
        """An interval from which a change back to this one has the guest asked at once."""
        ...

    async def device_info(self) -> DeviceInfo | None:
        """What only our own device tells; None: it is not ours, or does not answer."""
        ...
