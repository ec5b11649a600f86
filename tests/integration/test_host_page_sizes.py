"""Host pages bigger than balloon pages: given in parts, freed whole, and no byte lost.

Pages of 64 KiB are by parameter: the memory is ordinary, only the device takes it to be coarse.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.integration.device_under_test import running_device
from tests.support.guest_memory import MIB, GuestRam, RamRegion
from tests.support.scripts import (
    DRIVER_BITS,
    FIVE_QUEUES,
    MUST_TELL_HOST,
    run_qemu,
    start_qemu,
    start_uml,
    stop_qemu,
)
from tests.support.session import Session

from ballonet.device.balloon import BalloonSettings
from ballonet.virtio.features import BALLOON_FEATURES, RING_FEATURES

PARTS = 16
COARSE = BalloonSettings(RING_FEATURES | BALLOON_FEATURES, host_page_bytes=PARTS << 12)
TOLD, NOT_TOLD = DRIVER_BITS, DRIVER_BITS & ~MUST_TELL_HOST


def host_page(guest: Session, number: int = 0) -> int:
    """First balloon page of a host page that holds nothing of the driver's."""
    first, _ = guest.free_range()
    return -(-first // PARTS) * PARTS + number * PARTS


@pytest.mark.parametrize("defers", [True, False])
def test_parts_of_many_messages_free_a_page_where_the_host_is_told(
    tmp_path: Path, *, defers: bool
) -> None:
    settings = replace(COARSE, defers=defers)
    with running_device(tmp_path / "b", settings) as device, start_uml(device) as guest:
        page = host_page(guest)
        guest.ram.fill(page - 2, PARTS + 4)
        guest.inflate(range(page - 2, page + 7))
        assert guest.ram.changed_pages(page - 2, PARTS + 4) == set()
        guest.inflate(range(page + 7, page + PARTS + 1))
        assert guest.ram.changed_pages(page - 2, PARTS + 4) == set(range(page, page + PARTS))


def test_parts_of_many_messages_free_nothing_where_it_is_not(tmp_path: Path) -> None:
    with (
        running_device(tmp_path / "b", COARSE) as device,
        start_uml(device, wanted=NOT_TOLD) as guest,
    ):
        page = host_page(guest)
        guest.ram.fill(page, 2 * PARTS)
        guest.inflate(range(page, page + 8))
        guest.inflate(range(page + 8, page + PARTS))
        assert guest.ram.changed_pages(page, 2 * PARTS) == set()
        guest.inflate(range(page + PARTS, page + 2 * PARTS))  # whole, in one message
        assert guest.ram.changed_pages(page, PARTS) == set()
        assert len(guest.ram.changed_pages(page + PARTS, PARTS)) == PARTS


@pytest.mark.parametrize("defers", [True, False])
def test_inflate_a_deflate_a_inflate_b_keeps_a(tmp_path: Path, *, defers: bool) -> None:
    settings = replace(COARSE, defers=defers)
    with running_device(tmp_path / "b", settings) as device, start_uml(device) as guest:
        page = host_page(guest)
        a, b = range(page, page + 8), range(page + 8, page + PARTS)
        guest.ram.fill(page, PARTS)
        guest.inflate(a)
        guest.deflate(a)
        guest.inflate(b)
        assert guest.ram.changed_pages(page, PARTS) == set()


def test_a_stopped_machine_forgets_parts_because_another_driver_may_come(tmp_path: Path) -> None:
    with running_device(tmp_path / "b", COARSE) as device, start_qemu(device) as guest:
        page = host_page(guest)
        guest.ram.fill(page, PARTS)
        guest.inflate(range(page, page + 8))
        run_qemu(guest, bases=stop_qemu(guest))
        guest.inflate(range(page + 8, page + PARTS))
        assert guest.ram.changed_pages(page, PARTS) == set()


def test_reports_free_host_pages_they_cover_and_nothing_around_them(tmp_path: Path) -> None:
    with (
        running_device(tmp_path / "b", COARSE) as device,
        start_uml(device, wanted=FIVE_QUEUES) as guest,
    ):
        page = host_page(guest)
        guest.ram.fill(page, 4 * PARTS)
        guest.report([((page + 8) << 12, 2 * PARTS << 12)])
        assert guest.ram.changed_pages(page, 4 * PARTS) == set(range(page + 16, page + 32))


history = st.lists(
    st.tuples(st.booleans(), st.integers(0, 3 * PARTS - 1), st.integers(1, PARTS + 4)),
    min_size=1,
    max_size=25,
)


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(history, st.sampled_from([TOLD, NOT_TOLD]))
def test_no_history_loses_a_byte_of_a_page_that_is_the_guests(
    tmp_path: Path, steps: list[tuple[bool, int, int]], wanted: int
) -> None:
    region = RamRegion(6 * MIB, 4 * MIB, uva=6 * MIB, file_offset=6 * MIB)
    with (
        running_device(tmp_path / "b", COARSE) as device,
        start_uml(device, ram=GuestRam([region]), wanted=wanted) as guest,
    ):
        start = host_page(guest)
        everything = range(start, start + 3 * PARTS)
        guest.ram.fill(start, len(everything))
        balloon: set[int] = set()
        for gives, first, count in steps:
            named = set(range(start + first, start + first + count)) & set(everything)
            if gives:
                guest.inflate(sorted(named))
                balloon |= named
            else:
                guest.deflate(sorted(named))
                balloon -= named
                for pfn in named:
                    guest.ram.fill(pfn, 1)  # the guest uses them again
            lost = guest.ram.changed_pages(start, len(everything)) - balloon
            assert lost == set()
        if wanted == TOLD:
            whole = {
                pfn
                for pfn in everything
                if set(range(pfn // PARTS * PARTS, pfn // PARTS * PARTS + PARTS)) <= balloon
            }
            assert guest.ram.zero_pages(start, len(everything)) >= whole
