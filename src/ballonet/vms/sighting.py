"""A machine that was found, whether it can be reached or not."""

from __future__ import annotations

from dataclasses import dataclass

from ballonet.vms.observation import MachineId

__all__ = ["Sighting"]


@dataclass(frozen=True, slots=True)
class Sighting:
    """What is known without asking it."""

    who: MachineId
    path: str = ""  #: of the socket at which it is spoken to
    why_not: str = ""  #: why it is not spoken to
    memory_bytes: int | None = None  #: as its command line says
