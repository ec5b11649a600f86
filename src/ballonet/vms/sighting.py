"""A machine that was found, whether it can be reached or not."""

from __future__ import annotations

from dataclasses import dataclass

from ballonet.vms.observation import MachineId

__all__ = ["Sighting"]


@dataclass(frozen=True, slots=True)
class Sighting:
    """What is known without asking it."""

    who: MachineId
    address: str = ""  #: where it is spoken to: a socket, or what its kind has instead
    why_not: str = ""  #: why it is not spoken to
    memory_bytes: int | None = None  #: as its command line says
    place: str = ""  #: where it is observed with others in one question; empty: by itself
