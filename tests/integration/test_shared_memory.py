"""What front-ends may share besides plain memfds: huge pages, ROM, and very many regions."""

from __future__ import annotations

import fcntl
import logging
import os
import resource
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest
from tests.integration.device_under_test import (
    Device,
    DeviceProcess,
    soft_file_limit,
)
from tests.support.front_end import TableRegion
from tests.support.guest_memory import MIB, PAGE_BYTES, GuestRam, RamRegion
from tests.support.host_memory import HUGE_BYTES, UnavailableError, huge_bytes_free, huge_pages
from tests.support.scripts import start_qemu
from tests.support.session import INFLATE, Session
from tests.support.wire import RefusedError

HUGE_COUNT: Final = 16
HUGE_PFNS: Final = HUGE_BYTES // PAGE_BYTES
SLOTS: Final = 509
USUAL_SOFT_LIMIT: Final = 1024
ROM_GPA, ROM_UVA, ROM_BYTES = 8 << 30, 0x7E00_0000_0000, MIB


@pytest.fixture
def huge_guest(device: Device) -> Iterator[Session]:
    """A guest of 16 huge pages, all of them in use."""
    with ExitStack() as stack:
        try:
            stack.enter_context(huge_pages(HUGE_COUNT))
        except UnavailableError as error:
            pytest.skip(str(error))
        stack.callback(device.wait_until_free)
        ram = GuestRam([RamRegion(0, HUGE_COUNT * HUGE_BYTES, 0x7F00_0000_0000)], huge=True)
        guest = stack.enter_context(start_qemu(device, ram=ram))
        guest.ram.fill(HUGE_PFNS, (HUGE_COUNT - 1) * HUGE_PFNS)
        yield guest


def pfns_of(huge_page: int) -> range:
    return range(huge_page * HUGE_PFNS, (huge_page + 1) * HUGE_PFNS)


def lost(guest: Session) -> set[int]:
    return guest.ram.changed_pages(HUGE_PFNS, (HUGE_COUNT - 1) * HUGE_PFNS)


def test_a_huge_page_given_whole_is_freed(device: Device, huge_guest: Session) -> None:
    held, free = huge_guest.ram.blocks(), huge_bytes_free()
    huge_guest.inflate(pfns_of(5))
    assert held - huge_guest.ram.blocks() == HUGE_BYTES
    assert huge_bytes_free() - free == HUGE_BYTES
    assert lost(huge_guest) == set(pfns_of(5))
    assert device.status().counters.discarded_bytes == HUGE_BYTES


@pytest.mark.parametrize(
    "messages",
    [
        [pfns_of(5)[:256]],
        [pfns_of(5)[1:]],
        [range(5 * HUGE_PFNS + 256, 6 * HUGE_PFNS + 256)],
    ],
    ids=["half", "all but one page", "two halves"],
)
def test_a_huge_page_given_in_part_is_kept(
    device: Device, huge_guest: Session, messages: list[range]
) -> None:
    held, free = huge_guest.ram.blocks(), huge_bytes_free()
    for pfns in messages:
        huge_guest.inflate(pfns)
    assert (huge_guest.ram.blocks(), huge_bytes_free()) == (held, free)
    assert lost(huge_guest) == set()
    assert device.status().counters.discard_calls == 0


def test_a_huge_page_comes_back_in_messages_of_the_size_that_linux_sends(
    huge_guest: Session,
) -> None:
    held, free = huge_guest.ram.blocks(), huge_bytes_free()
    for pfns in (pfns_of(5)[256:], pfns_of(6)[:256], pfns_of(5)[:256], pfns_of(6)[256:]):
        huge_guest.inflate(pfns)
    assert held - huge_guest.ram.blocks() == huge_bytes_free() - free == 2 * HUGE_BYTES
    assert lost(huge_guest) == {*pfns_of(5), *pfns_of(6)}


def test_a_huge_page_half_taken_back_is_kept(huge_guest: Session) -> None:
    huge_guest.inflate(pfns_of(5)[:256])
    huge_guest.deflate(pfns_of(5)[:256])
    huge_guest.inflate(pfns_of(5)[256:])
    assert lost(huge_guest) == set()


def test_a_huge_page_with_the_drivers_rings_outlives_the_freeing_of_all_others(
    huge_guest: Session,
) -> None:
    for huge_page in range(1, HUGE_COUNT):
        huge_guest.inflate(pfns_of(huge_page))
    assert huge_guest.ram.blocks() == HUGE_BYTES
    assert huge_guest.deflate(pfns_of(1)).length == 0


@pytest.fixture(params=["read-only descriptor", "sealed against writing"])
def rom_guest(device: Device, request: pytest.FixtureRequest) -> Iterator[tuple[Session, int]]:
    """A guest with a region that may not be written, and the file behind it."""
    with ExitStack() as stack:
        fd = os.memfd_create("rom", os.MFD_ALLOW_SEALING)
        stack.callback(os.close, fd)
        os.pwrite(fd, b"rom!" * (ROM_BYTES // 4), 0)
        if request.param == "read-only descriptor":
            fd = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
            stack.callback(os.close, fd)
        else:
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
        guest = stack.enter_context(start_qemu(device))
        guest.front_end.add_mem_reg(TableRegion(ROM_GPA, ROM_BYTES, ROM_UVA, 0), [fd])
        yield guest, fd


def test_read_only_memory_is_taken_and_never_freed(
    device: Device, rom_guest: tuple[Session, int], caplog: pytest.LogCaptureFixture
) -> None:
    guest, fd = rom_guest
    first, _ = guest.free_range()
    guest.ram.fill(first, 2)
    rom_pfn = ROM_GPA // PAGE_BYTES
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            guest.inflate([first, *range(rom_pfn, rom_pfn + 8)])
    assert guest.ram.changed_pages(first, 2) == {first}
    assert os.pread(fd, ROM_BYTES, 0) == b"rom!" * (ROM_BYTES // 4)
    counters = device.status().counters
    assert (counters.discarded_bytes, counters.failed_discard_bytes) == (
        3 * PAGE_BYTES,
        3 * 8 * PAGE_BYTES,
    )
    told = [line for line in caplog.messages if "discard failed" in line]
    assert len(told) == 1
    assert "guest memory 0x200000000 is read-only" in told[0]


def test_a_ring_in_read_only_memory_is_refused_with_its_reason(
    rom_guest: tuple[Session, int], caplog: pytest.LogCaptureFixture
) -> None:
    guest, _ = rom_guest
    desc, avail, _ = guest.ring_uvas(INFLATE)
    guest.front_end.wire.asks_acks = True
    with caplog.at_level(logging.WARNING), pytest.raises(RefusedError):
        guest.front_end.set_vring_addr(INFLATE, (desc, avail, ROM_UVA))
    assert "ring at 0x7e0000000000: guest memory 0x200000000 is read-only: its" in caplog.text
    assert "bug" not in caplog.text
    assert guest.deflate([guest.free_range()[0]]).length == 0  # the other ring goes on
    guest.front_end.set_vring_addr(INFLATE, guest.ring_uvas(INFLATE))
    assert guest.inflate([guest.free_range()[0]]).length == 0


def test_as_many_regions_as_promised_fit_under_the_usual_limit_of_descriptors(
    tmp_path: Path,
) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2 * USUAL_SOFT_LIMIT:
        pytest.skip(f"the hard limit of descriptors is {hard}")
    with soft_file_limit(USUAL_SOFT_LIMIT):
        device = DeviceProcess(tmp_path / "balloon.sock", tmp_path / "log")
    try:
        with start_qemu(device) as guest:
            assert guest.front_end.get_max_mem_slots() == SLOTS
            fill_slots(guest)
        assert "bug" not in device.log()
    finally:
        assert device.stop() == 0


def fill_slots(guest: Session) -> None:
    """Add regions, each a file of its own, to the last; each can be used, and one more cannot."""
    size = 4 * PAGE_BYTES
    for number in range(len(guest.ram.regions), SLOTS):
        region = TableRegion(ROM_GPA + number * size, size, ROM_UVA + number * size, 0)
        fd = os.memfd_create("slot")
        try:
            os.pwrite(fd, b"x" * size, 0)
            guest.front_end.add_mem_reg(region, [fd])
            if number % 100 == 0 or number == SLOTS - 1:
                guest.inflate([region.gpa // PAGE_BYTES])
                assert os.fstat(fd).st_blocks * 512 == size - PAGE_BYTES
        finally:
            os.close(fd)
    one_more = TableRegion(ROM_GPA + SLOTS * size, size, ROM_UVA + SLOTS * size, 0)
    with pytest.raises(RefusedError):
        guest.front_end.add_mem_reg(one_more, [guest.ram.fd(guest.ram.regions[0])])
    assert guest.deflate([guest.free_range()[0]]).length == 0
