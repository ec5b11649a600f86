"""Which mappings of a VMM are its guest's memory, and how much of them the host holds.

A VMM maps many things; those whose sizes make up exactly the guest's memory are the guest's.  Where
none do, or several might, it is not known, and nothing is guessed.  Code is never guest memory: the
buffer of QEMU's translator can be as big, but is executable.
Units: bytes.
Source: proc_pid_smaps(5); Linux fs/proc/task_mmu.c.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

__all__ = ["MemoryArea", "find_guest_memory", "parse_mappings"]

_HEAD: Final = re.compile(
    r"^(?P<start>[0-9a-f]+)-(?P<end>[0-9a-f]+) (?P<modes>\S{4}) (?P<offset>[0-9a-f]+)"
    r" (?P<device>[0-9a-f]+:[0-9a-f]+) (?P<inode>\d+) *(?P<path>.*)$",
    re.ASCII | re.MULTILINE,
)
#: What the host holds of a private mapping: in memory, swapped out, in huge pages of hugetlbfs.
_HELD_KIB: Final = re.compile(
    r"^(?:Rss|Swap|Private_Hugetlb|Shared_Hugetlb): +(\d+) kB$", re.ASCII | re.MULTILINE
)
#: A guest's memory is in one area, or in one for each of its nodes; FC and CH cut it at a hole.
_AREAS_MOST: Final = 4
#: The biggest ones, of which so many are chosen.
_CHOICES_MOST: Final = 16


@dataclass(frozen=True, slots=True)
class MemoryArea:
    """An anonymous mapping, or all mappings of one file."""

    size_bytes: int
    held_bytes: int  #: by this process's page tables and swap
    span: str  #: of the first mapping, as /proc/PID/map_files names it
    device: str = ""
    inode: int = 0  #: 0: anonymous
    is_shared: bool = False


def parse_mappings(text: str) -> list[MemoryArea]:
    """Everything in /proc/PID/smaps that may be guest memory.

    In /proc/PID/maps it is the same, except for what is held, which is told as nothing.
    """
    areas: list[MemoryArea] = []
    files: dict[tuple[str, int, bool], MemoryArea] = {}
    heads = [*_HEAD.finditer(text)]
    ends = [head.start() for head in heads[1:]] + [len(text)]
    for head, end in zip(heads, ends, strict=False):  # there may be none
        path, modes = head["path"], head["modes"]
        if not modes.startswith("rw-") or (path.startswith("[") and not path.startswith("[anon")):
            continue
        held_bytes = sum(map(int, _HELD_KIB.findall(text, head.end(), end))) << 10
        size_bytes = int(head["end"], 16) - int(head["start"], 16)
        span = f"{head['start']}-{head['end']}"
        if int(head["inode"]) == 0:
            areas.append(MemoryArea(size_bytes, held_bytes, span))
            continue
        key = head["device"], int(head["inode"]), modes.endswith("s")
        known = files.get(key, MemoryArea(0, 0, span, *key))
        files[key] = MemoryArea(
            known.size_bytes + size_bytes, known.held_bytes + held_bytes, known.span, *key
        )
    return areas + list(files.values())


def find_guest_memory(areas: Sequence[MemoryArea], ram_bytes: int) -> tuple[MemoryArea, ...]:
    """Those that make up so much memory, if only one choice does; else none."""
    biggest = sorted(areas, key=lambda one: one.size_bytes, reverse=True)
    fitting = [one for one in biggest if one.size_bytes <= ram_bytes][:_CHOICES_MOST]
    for count in range(1, _AREAS_MOST + 1):
        found = [
            chosen
            for chosen in combinations(fitting, count)
            if sum(one.size_bytes for one in chosen) == ram_bytes
        ]
        if found:
            return found[0] if len(found) == 1 else ()
    return ()
