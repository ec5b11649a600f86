"""A virtual machine's memory is found in the map of its process."""

from __future__ import annotations

import mmap
import os
from itertools import count
from pathlib import Path

import pytest

from ballonet.errors import GuestError
from ballonet.lab.guest_mapping import (
    GuestMapping,
    find_guest_mapping,
    parse_maps,
    resident_bytes,
)
from ballonet.memory.discard import address_of

MAPS = """\
7f0000000000-7f000c000000 rw-p 00000000 00:00 0
7f0010000000-7f001c000000 rw-s 00000000 00:01 1063                       /memfd:memory (deleted)
7f0020000000-7f0020001000 r-xp 00002000 fe:00 3021                       /usr/lib/a name.so
"""
SMAPS = """\
7f0000000000-7f000c000000 rw-p 00000000 00:00 0
Size:             196608 kB
Rss:              131072 kB
VmFlags: rd wr mr mw me dc ac sd hg
7f0010000000-7f001c000000 rw-s 00000000 00:01 1063                       /memfd:memory (deleted)
Rss:                   4 kB
"""


def test_rows_of_the_map_have_addresses_modes_and_a_name() -> None:
    assert list(parse_maps(MAPS.splitlines())) == [
        GuestMapping(0x7F00_0000_0000, 0x7F00_0C00_0000, "rw-p", ""),
        GuestMapping(0x7F00_1000_0000, 0x7F00_1C00_0000, "rw-s", "/memfd:memory (deleted)"),
        GuestMapping(0x7F00_2000_0000, 0x7F00_2000_1000, "r-xp", "/usr/lib/a name.so"),
    ]


def test_resident_is_what_stands_under_the_mapping_that_is_meant() -> None:
    assert resident_bytes(SMAPS.splitlines(), 0x7F00_0000_0000) == 128 << 20
    assert resident_bytes(SMAPS.splitlines(), 0x7F00_1000_0000) == 4096
    assert resident_bytes(SMAPS.splitlines(), 0x7F00_3000_0000) == 0


def size_of_no_mapping() -> int:
    """Other tests of this process may have left one of any size."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    taken = {one.size for one in parse_maps(maps)}
    return next(size for size in count(16 << 20, mmap.PAGESIZE) if size not in taken)


def test_a_mapping_is_found_by_its_size_and_tells_what_is_held() -> None:
    size = size_of_no_mapping()
    with mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as mapping:
        address = address_of(mapping)
        mapping.madvise(mmap.MADV_NOHUGEPAGE)
        # Without a neighbour that the kernel would take for the same mapping.
        mapping.madvise(mmap.MADV_DONTFORK)
        found = find_guest_mapping(os.getpid(), size)
        assert (found.start, found.is_shared) == (address, False)
        mapping[:4096] = b"x" * 4096
        assert found.held_bytes(os.getpid()) == 4096


def test_none_or_no_process_is_an_error() -> None:
    with pytest.raises(GuestError, match="has 0 mappings of 12345 bytes"):
        find_guest_mapping(os.getpid(), 12345)
    with pytest.raises(GuestError, match="cannot be looked into"):
        find_guest_mapping(1 << 22, 4096)
