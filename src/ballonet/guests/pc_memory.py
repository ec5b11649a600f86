"""The memory of a PC in QEMU whose owner shares it as a file, mapped into this process.

    0 ... below       the first part of the file
    4 GiB ...         the rest of it, if there is one

The first 3 GiB are below where there are 3.5 GiB or more, so that devices have room under 4 GiB.
What the BIOS and the display hide of the first MiB is in the file and never reached by it.
Source: QEMU hw/i386/pc_piix.c pc_init1, pc.c pc_memory_init.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from ballonet.memory.mapping import GuestMemory
from ballonet.memory.regions import Region

__all__ = ["map_pc_memory", "pc_regions"]

_ALL_BELOW_MAX: Final = 0xE000_0000
_BELOW_BYTES: Final = 0xC000_0000
_ABOVE_GPA: Final = 1 << 32


def pc_regions(memory_bytes: int) -> list[Region]:
    """Where the file of a PC's memory is seen by the guest."""
    below = memory_bytes if memory_bytes < _ALL_BELOW_MAX else _BELOW_BYTES
    regions = [Region(gpa=0, size=below, uva=0, file_offset=0)]
    if memory_bytes > below:
        rest = memory_bytes - below
        regions.append(Region(gpa=_ABOVE_GPA, size=rest, uva=_ABOVE_GPA, file_offset=below))
    return regions


def map_pc_memory(path: Path, memory_bytes: int) -> GuestMemory:
    """All of it; the caller closes it. Raises: OSError; MapError, if the file is too short."""
    memory = GuestMemory()
    regions = pc_regions(memory_bytes)
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        memory.replace(regions, [fd] * len(regions))
    finally:
        os.close(fd)
    return memory
