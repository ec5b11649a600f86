"""What an operator decides; everything else is a constant of the law.

Units: bytes left to the guest (logical size).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from ballonet.autopilot.constants import DEFAULTS, Constants
from ballonet.errors import SettingsError

__all__ = ["Mode", "Settings", "VmPolicy"]

_LEAST_SHARE: Final = 0.25
#: Proxmox has 50000.
WEIGHT_MOST: Final = 1_000_000


class Mode(Enum):
    """What becomes of memory that nobody needs."""

    RETURN = "return"  #: it is lent to the VMs, for as long as nobody needs it
    HOLD = "hold"  #: it stays with the host


@dataclass(frozen=True, slots=True)
class VmPolicy:
    """What was decided for one VM. Raises: SettingsError."""

    #: It is never asked to keep less.  None: a quarter of its memory.
    least_bytes: int | None = None
    weight: int = 1000  #: its part where memory is short, beside those of others
    is_excluded: bool = False  #: it is left alone

    def __post_init__(self) -> None:
        if not 1 <= self.weight <= WEIGHT_MOST:
            raise SettingsError("weight", self.weight, f"1 to {WEIGHT_MOST}")
        if self.least_bytes is not None and self.least_bytes < 0:
            raise SettingsError("min", self.least_bytes, "a size")

    def least_of(self, memory_bytes: int) -> int:
        """The floor of a VM of this size."""
        least = int(memory_bytes * _LEAST_SHARE) if self.least_bytes is None else self.least_bytes
        return min(max(0, least), memory_bytes)


@dataclass(frozen=True, slots=True)
class Settings:
    """Of one host."""

    mode: Mode = Mode.RETURN
    reserve_bytes: int | None = None  #: for the host; None: see constants
    budget_bytes: int | None = None  #: for all VMs together, if that is less than there is
    policies: Mapping[str, VmPolicy] = field(default_factory=dict)  #: by VM
    other: VmPolicy = VmPolicy()  #: of every other VM
    is_dry_run: bool = False  #: decisions are made and not carried out
    constants: Constants = DEFAULTS

    def policy_of(self, vm: str) -> VmPolicy:
        """What was decided for this VM."""
        return self.policies.get(vm, self.other)
