"""How a migration is to go."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["MigrationSettings", "OnTimeout"]


class OnTimeout(Enum):
    """What happens to a migration that has taken as long as it may."""

    CANCEL = "cancel"  #: the guest goes on at the source
    FORCE = "force"  #: the guest is stopped for as long as the rest takes
    POSTCOPY = "post-copy"  #: the guest goes on at the destination, and the rest follows it


@dataclass(frozen=True, slots=True)
class MigrationSettings:
    """Names are QEMU's where it has them."""

    downtime_ns: int = 300_000_000  #: how long the guest may stand still
    bandwidth_bytes_per_s: int | None = None  #: until the guest is stopped; None: no limit
    timeout_ns: int | None = None  #: from the start to the stop of the guest
    on_timeout: OnTimeout = OnTimeout.CANCEL
    uses_hints: bool = True
    head_start_ns: int = 100_000_000  #: to hear what is free before anything is sent
    throttles: bool = False  #: slow a guest down that writes faster than can be sent
    checksums: bool = True  #: of the contents of pages; everything else always has one
    verifies: bool = False  #: the destination compares all that it has got, before it has the guest
    postcopy: bool = False  #: the guest may go on before all of its memory is there
    postcopy_bandwidth_bytes_per_s: int | None = None  #: of what nobody waits for; None: no limit
