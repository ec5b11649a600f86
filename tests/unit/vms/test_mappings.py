"""Which of a VMM's mappings are its guest's memory."""

from __future__ import annotations

import pytest

from ballonet.vms.mappings import find_guest_memory, parse_mappings

MIB = 1 << 20


def mapping(
    start_mib: int, size_mib: int, rss_kib: int, rest: str = "rw-p 00000000 00:00 0", **fields: int
) -> str:
    """A mapping as /proc/PID/smaps has it."""
    start, end = 0x7F0000000000 + start_mib * MIB, 0x7F0000000000 + (start_mib + size_mib) * MIB
    lines = [f"{start:x}-{end:x} {rest}", f"Size:  {size_mib * 1024} kB", f"Rss:  {rss_kib} kB"]
    lines += [f"{name}:  {value} kB" for name, value in fields.items()]
    return "\n".join([*lines, "VmFlags: rd wr mr mw me dc ac sd hg", ""])


MEMFD = "rw-s 00000000 00:01 77                       /memfd:ch_ram (deleted)"
CODE = "rwxp 00000000 00:00 0"


def held(ram_mib: int, *mappings: str) -> int | None:
    """KiB that are held of a guest's memory; None: it is not clear which it is."""
    areas = find_guest_memory(parse_mappings("".join(mappings)), ram_mib * MIB)
    return sum(area.held_bytes for area in areas) >> 10 if areas else None


def test_the_mapping_as_big_as_the_guest_is_its_memory() -> None:
    assert held(512, mapping(0, 64, 5), mapping(100, 512, 1000), mapping(700, 8, 3)) == 1000


def test_what_is_swapped_out_or_in_huge_pages_is_held_too() -> None:
    one = mapping(0, 512, 1000, Swap=20, SwapPss=7, Private_Hugetlb=2048, Anonymous=900)
    assert held(512, one) == 1000 + 20 + 2048


def test_the_buffer_of_a_translator_is_code_and_no_memory_of_a_guest() -> None:
    assert held(1024, mapping(0, 1024, 1, CODE), mapping(2000, 1024, 2)) == 2


def test_memory_cut_at_a_hole_is_put_together() -> None:
    assert held(4096, mapping(0, 3072, 10), mapping(5000, 1024, 20), mapping(9000, 64, 5)) == 30


def test_every_mapping_of_one_file_is_one_area() -> None:
    first, second = mapping(0, 3072, 10, MEMFD), mapping(5000, 1024, 20, MEMFD)
    areas = find_guest_memory(parse_mappings(first + second), 4096 * MIB)
    assert [(one.inode, one.device, one.is_shared) for one in areas] == [(77, "00:01", True)]
    assert held(4096, first, second) == 30


@pytest.mark.parametrize(
    "mappings",
    [
        (),
        (mapping(0, 500, 10),),
        (mapping(0, 512, 10), mapping(600, 512, 20)),
        tuple(mapping(100 * at, 64, 1) for at in range(10)),
        (mapping(0, 512, 10, "rw-p 00000000 00:00 0                 [heap]"),),
        (mapping(0, 512, 10, "r--p 00000000 00:00 0"),),
    ],
    ids=["nothing", "other size", "two", "many", "heap", "read only"],
)
def test_nothing_is_guessed(mappings: tuple[str, ...]) -> None:
    assert held(512, *mappings) is None
