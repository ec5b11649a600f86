"""What waits in the balloon is dropped before rings stop or memory changes, and never after."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.integration.device_under_test import Device, running_device
from tests.support.guest_memory import MIB, GuestRam, RamRegion
from tests.support.scripts import (
    bind_uml,
    run_qemu,
    start_qemu,
    start_uml,
    stop_qemu,
    unbind_uml,
)
from tests.support.session import DEFLATE, INFLATE, Session, table_of, wire_region
from tests.support.wait import PATIENCE_S, wait_until

from ballonet.balloon import page_ledger
from ballonet.device.balloon import BalloonSettings

PAGES = 20


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    """One that waits for ever, unless it must not."""
    monkeypatch.setattr(page_ledger, "QUIET_NS", 1 << 60)
    monkeypatch.setattr(page_ledger, "AGE_NS_MAX", 1 << 60)
    with running_device(tmp_path / "b.sock", BalloonSettings()) as made:
        yield made


def give(device: Device, guest: Session) -> set[int]:
    """Inflate some pages, which then wait; returns their numbers."""
    first, _ = guest.free_range()
    pfns = range(first, first + PAGES)
    guest.ram.fill(first, PAGES)
    guest.inflate(pfns)
    assert device.status().waiting_bytes == PAGES << 12
    assert guest.ram.zero_pages(first, PAGES) == set()
    return set(pfns)


def dropped(guest: Session, pfns: set[int]) -> set[int]:
    return guest.ram.zero_pages(min(pfns), len(pfns))


def accept_again(guest: Session) -> None:
    guest.front_end.set_features(guest.driver_features)


def tell_table_again(guest: Session) -> None:
    guest.front_end.set_mem_table(*table_of(guest.ram))


def stop_a_ring(guest: Session) -> None:
    guest.front_end.get_vring_base(INFLATE)


def stop_the_other_ring(guest: Session) -> None:
    guest.front_end.get_vring_base(DEFLATE)


def disable_a_ring(guest: Session) -> None:
    guest.front_end.set_vring_enable(INFLATE, 0)


@pytest.mark.parametrize(
    "change", [accept_again, tell_table_again, stop_a_ring, stop_the_other_ring, disable_a_ring]
)
def test_what_waits_is_dropped_before(device: Device, change: Callable[[Session], None]) -> None:
    with start_qemu(device.path) as guest:
        pfns = give(device, guest)
        change(guest)
        guest.front_end.get_features()  # so the message before has been obeyed
        assert dropped(guest, pfns) == pfns
        assert device.status().waiting_bytes == 0


def test_a_message_nobody_has_looked_at_yet_is_dropped_too(device: Device) -> None:
    with start_qemu(device.path) as guest:
        first, _ = guest.free_range()
        guest.ram.fill(first, 1)
        guest.inflate([first])
        guest.front_end.get_vring_base(INFLATE)
        assert guest.ram.zero_pages(first, 1) == {first}


def test_what_waits_is_dropped_before_a_region_comes_or_goes(device: Device) -> None:
    with start_qemu(device.path) as guest, GuestRam([RamRegion(1 << 40, MIB, 1 << 40)]) as more:
        region = wire_region(more.regions[0])
        changes: list[Callable[[], None]] = [
            lambda: guest.front_end.add_mem_reg(region, [more.fd(more.regions[0])]),
            lambda: guest.front_end.rem_mem_reg(region),
        ]
        for change in changes:
            pfns = give(device, guest)
            change()
            guest.front_end.get_features()
            assert dropped(guest, pfns) == pfns


def test_what_waited_is_not_dropped_in_the_memory_that_comes_next(device: Device) -> None:
    with start_qemu(device.path) as guest, GuestRam(guest.ram.regions) as other:
        pfns = give(device, guest)
        other.fill(min(pfns), PAGES)
        guest.front_end.set_mem_table(*table_of(other))
        guest.front_end.get_features()
        assert dropped(guest, pfns) == pfns
        device.control.expedite()
        device.settle()
        assert other.changed_pages(min(pfns), PAGES) == set()


def test_what_waited_when_a_driver_left_is_not_dropped_under_the_next(device: Device) -> None:
    with start_uml(device.path) as guest:
        pfns = give(device, guest)
        unbind_uml(guest)
        bind_uml(guest)
        guest.ram.fill(min(pfns), PAGES)
        device.control.expedite()
        device.settle()
        assert guest.ram.changed_pages(min(pfns), PAGES) == set()


def test_half_a_host_page_given_before_rings_stopped_does_not_count_after(tmp_path: Path) -> None:
    parts = 16
    settings = BalloonSettings(host_page_bytes=parts << 12)
    with running_device(tmp_path / "b.sock", settings) as device, start_qemu(device.path) as guest:
        first = -(-guest.free_range()[0] // parts) * parts
        guest.ram.fill(first, parts)
        guest.inflate(range(first, first + parts // 2))
        run_qemu(guest, bases=stop_qemu(guest))
        guest.inflate(range(first + parts // 2, first + parts))
        device.control.expedite()
        device.settle()
        assert guest.ram.changed_pages(first, parts) == set()
        guest.inflate(range(first, first + parts // 2))
        device.control.expedite()
        wait_until(lambda: guest.ram.zero_pages(first, parts), PATIENCE_S, "all is given now")


def test_what_a_driver_took_back_is_not_dropped_when_rings_stop(device: Device) -> None:
    with start_qemu(device.path) as guest:
        pfns = give(device, guest)
        back = sorted(pfns)[: PAGES // 2]
        guest.deflate(back)
        guest.ram.fill(back[0], len(back))
        guest.front_end.get_vring_base(INFLATE)
        assert dropped(guest, pfns) == pfns - set(back)
        assert guest.ram.changed_pages(back[0], len(back)) == set()
