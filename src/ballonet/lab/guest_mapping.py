"""The memory of somebody's virtual machine, found in its process, and what the host holds of it.

Memory that is private is held as long as that process has it mapped; shared memory as long as it
is in its file, mapped or not, so that the process's own figures do not tell.
Not here: User-Mode Linux, which has its memory in pieces (guests.uml_memory).
Units: bytes.  Source: proc_pid_maps(5), proc_pid_smaps(5), proc_pid_map_files(5).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ballonet.errors import GuestError

__all__ = ["GuestMapping", "find_guest_mapping", "parse_maps", "resident_bytes"]

_ROW: Final = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ \S+ \d+ *(.*)")
_BLOCK_BYTES: Final = 512


@dataclass(frozen=True, slots=True)
class GuestMapping:
    """One row of a process's map."""

    start: int
    end: int
    modes: str  #: as `rw-s`: shared, or `rw-p`: private
    name: str  #: of its file; "" without one

    @property
    def size(self) -> int:
        """How much is mapped."""
        return self.end - self.start

    @property
    def is_shared(self) -> bool:
        """It is in a file, even if that has no name."""
        return self.modes.endswith("s")

    def held_bytes(self, pid: int) -> int:
        """What the host holds of it. Raises: GuestError, if that may not be looked at."""
        try:
            if not self.is_shared:
                smaps = Path(f"/proc/{pid}/smaps").read_text(errors="replace")
                return resident_bytes(smaps.splitlines(), self.start)
            # Found by its addresses: shared memory without a name has no descriptor either.
            link = Path(f"/proc/{pid}/map_files/{self.start:x}-{self.end:x}")
            return link.stat().st_blocks * _BLOCK_BYTES
        except OSError as error:
            what = f"memory of process {pid} cannot be looked at"
            raise GuestError(f"{what}: {error.strerror}; as root it can") from error


def find_guest_mapping(pid: int, memory_bytes: int) -> GuestMapping:
    """The mapping of just this size. Raises: GuestError, unless there is one."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines()
    except OSError as error:
        raise GuestError(f"process {pid} cannot be looked into: {error.strerror}") from error
    found = [one for one in parse_maps(lines) if one.size == memory_bytes and one.modes[:2] == "rw"]
    if len(found) != 1:
        raise GuestError(f"process {pid} has {len(found)} mappings of {memory_bytes} bytes")
    return found[0]


def parse_maps(lines: Iterable[str]) -> Iterator[GuestMapping]:
    """Rows of /proc/pid/maps."""
    for line in lines:
        if row := _ROW.fullmatch(line.rstrip()):
            start, end, modes, name = row.groups()
            yield GuestMapping(int(start, 16), int(end, 16), modes, name)


def resident_bytes(lines: Iterable[str], start: int) -> int:
    """What /proc/pid/smaps says to be resident of the mapping that begins there; 0 without it."""
    is_inside = False
    for line in lines:
        if row := _ROW.fullmatch(line.rstrip()):
            is_inside = int(row[1], 16) == start
        elif is_inside and line.startswith("Rss:"):
            return int(line.split()[1]) << 10
    return 0
