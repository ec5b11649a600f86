"""Packed rings from end to end: front-ends whose drivers accept RING_PACKED, the real back-end."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

import pytest
from tests.integration.device_under_test import SECONDS, Device
from tests.support import scripts
from tests.support.driver_ring import F_NEXT, Buffer
from tests.support.guest_memory import MIB, PAGE_BYTES
from tests.support.packed_driver_ring import PackedDriverRing
from tests.support.scripts import (
    DRIVER_BITS,
    EVENT_IDX,
    IN_ORDER,
    PACKED_START,
    RING_PACKED,
    VERSION_1,
    Where,
    start_cloud_hypervisor,
    start_qemu,
    start_uml,
)
from tests.support.session import DEFLATE, INFLATE, STATS, Session
from tests.support.wait import wait_until
from tests.support.wire import RefusedError

from ballonet.device.balloon import BalloonSettings
from ballonet.virtio.features import RING_FEATURES, Feature

Start = Callable[[Where], Session]

OFFERED = (
    RING_FEATURES
    | Feature.MUST_TELL_HOST
    | Feature.STATS_VQ
    | Feature.RING_PACKED
    | Feature.IN_ORDER
)
ACCEPTED = DRIVER_BITS | RING_PACKED | IN_ORDER
PROTOCOL_FEATURES = 1 << 30
LOG_ALL = 1 << 26
STAT_FREE = 4
WRAP = 1 << 15

STARTS: dict[str, Start] = {
    "uml": partial(start_uml, wanted=ACCEPTED),
    "uml without event index": partial(start_uml, wanted=ACCEPTED & ~EVENT_IDX),
    "uml with 255 entries": partial(start_uml, wanted=ACCEPTED, queue_size=255),
    "qemu": partial(start_qemu, wanted=ACCEPTED),
    "qemu with 3 entries": partial(start_qemu, wanted=ACCEPTED, queue_size=3),
    "cloud hypervisor": start_cloud_hypervisor,
}
each_start = pytest.mark.parametrize("start", list(STARTS.values()), ids=list(STARTS))
_start_qemu = STARTS["qemu"]


@pytest.fixture
def settings() -> BalloonSettings:
    return BalloonSettings(OFFERED)


def packed_ring(guest: Session, queue: int) -> PackedDriverRing:
    ring = guest.rings[queue]
    assert isinstance(ring, PackedDriverRing)
    return ring


@each_start
def test_inflating_frees_exactly_the_pages_named_lap_after_lap(
    device: Device, start: Start
) -> None:
    with start(device) as guest:
        first, pages = guest.free_range()
        guest.ram.fill(first, pages)
        given = set()
        for i in range(3 * guest.queue_size):
            pfn = first + 3 * i % pages
            assert guest.inflate([pfn]).length == 0
            assert guest.deflate([pfn]).length == 0
            given.add(pfn)
        assert guest.ram.changed_pages(first, pages) == given
        snapshot = device.status()
        assert Feature.RING_PACKED in snapshot.negotiated
        counters = snapshot.counters
        assert counters.inflated_pages == counters.deflated_pages == 3 * guest.queue_size
        bases = {queue: guest.front_end.get_vring_base(queue) for queue in (INFLATE, DEFLATE)}
        assert bases == {queue: packed_ring(guest, queue).base for queue in bases}


@pytest.mark.parametrize("name", [name for name in STARTS if name != "cloud hypervisor"])
def test_statistics_are_held_asked_for_and_renewed(device: Device, name: str) -> None:
    with STARTS[name](device) as guest:
        head = guest.put_stats([(STAT_FREE, 0)])
        for free in range(1, 20):
            wait_until(lambda: device.status().sample, SECONDS, "no sample arrives")
            assert guest.rings[STATS].collect() == []
            before = device.status().sample
            device.control.stats.request()
            assert [(used.head, used.length) for used in guest.wait_used(STATS)] == [(head, 0)]
            head = guest.put_stats([(STAT_FREE, free)])
            wait_until(
                lambda old=before: device.status().sample is not old,  # type: ignore[misc]
                SECONDS,
                "no newer sample arrives",
            )


def wait_for_stats(device: Device, messages: int) -> None:
    """Wait until the device has read so many statistics buffers, the same one again included."""
    message = f"no {messages} statistics buffers are read"
    wait_until(lambda: device.status().counters.stats_messages >= messages, SECONDS, message)


@pytest.mark.parametrize("queue_size", [128, 3, 1])
def test_rings_stopped_anywhere_go_on_and_the_held_buffer_comes_again(
    device: Device, queue_size: int
) -> None:
    with start_qemu(device, wanted=ACCEPTED, queue_size=queue_size) as guest:
        first, _ = guest.free_range()
        guest.ram.fill(first, 1)
        for stop in range(8):
            messages = device.status().counters.stats_messages
            head = guest.put_stats([(STAT_FREE, stop)])
            wait_for_stats(device, messages + 1)
            for _ in range(stop):
                guest.inflate([first])
            guest.deflate([first])
            bases = scripts.stop_qemu(guest)
            drivers = {queue: packed_ring(guest, queue) for queue in bases}
            held = drivers.pop(STATS)
            assert {queue: ring.base for queue, ring in drivers.items()} == {
                queue: bases[queue] for queue in drivers
            }
            # The held buffer is before the base: both places are the driver's last collected one.
            assert bases[STATS] == held.base & 0xFFFF_0000 | held.base >> 16
            scripts.run_qemu(guest, ACCEPTED, bases=bases)
            wait_for_stats(device, messages + 2)
            device.control.stats.request()
            assert [used.head for used in guest.wait_used(STATS)] == [head]


def test_a_vm_that_never_ran_stops_at_the_start(device: Device) -> None:
    with _start_qemu(device) as guest:
        assert set(scripts.stop_qemu(guest).values()) == {PACKED_START}


@pytest.mark.parametrize("name", ["uml", "uml with 255 entries"])
def test_a_uml_guest_that_is_suspended_or_bound_again_goes_on(device: Device, name: str) -> None:
    with STARTS[name](device) as guest:
        first, _ = guest.free_range()
        for round_no in range(4):
            for i in range(guest.queue_size):
                guest.inflate([first + i])
            for queue in guest.rings:
                guest.front_end.set_vring_enable(queue, 0)
            head = guest.rings[INFLATE].add([guest.write_pfns(INFLATE, [first + 1])])
            guest.rings[INFLATE].publish()
            guest.front_end.kick(INFLATE)
            for queue in guest.rings:
                guest.front_end.set_vring_enable(queue, 1)
            assert [used.head for used in guest.wait_used(INFLATE)] == [head]
            guest.put_stats([(STAT_FREE, round_no)])
            scripts.unbind_uml(guest)
            scripts.bind_uml(guest, ACCEPTED)
        assert guest.inflate([first]).length == 0


def test_the_next_front_end_may_use_the_other_format(device: Device) -> None:
    starts: list[Start] = [_start_qemu, start_qemu, STARTS["uml"], start_uml, _start_qemu]
    for start in starts:
        with start(device) as guest:
            first, _ = guest.free_range()
            guest.ram.fill(first, 2)
            guest.inflate([first])
            assert guest.ram.changed_pages(first, 2) == {first}
        device.wait_until_free()


def test_a_full_ring_of_messages_is_answered_in_order(device: Device) -> None:
    with STARTS["uml with 255 entries"](device) as guest:
        first, _ = guest.free_range()
        ring = guest.rings[INFLATE]
        buffer = guest.write_pfns(INFLATE, [first])
        for _ in range(3):
            heads = [ring.add([buffer]) for _ in range(ring.size)]
            if ring.publish():
                guest.front_end.kick(INFLATE)
            used: list[int] = []
            while len(used) < len(heads):
                used += [entry.head for entry in guest.wait_used(INFLATE)]
            assert used == heads


@pytest.mark.parametrize("is_indirect", [False, True])
def test_a_message_may_be_cut_into_single_bytes(device: Device, is_indirect: bool) -> None:
    with _start_qemu(device) as guest:
        first, pages = guest.free_range()
        guest.ram.fill(first, pages)
        whole = guest.write_pfns(INFLATE, [first, first + 2, first + 9])
        pieces = [Buffer(whole.gpa + i, 1) for i in range(whole.length)]
        table = whole.gpa + PAGE_BYTES if is_indirect else None
        for _ in range(20):  # across the end of the ring
            guest.transact(INFLATE, pieces, indirect_at=table)
        assert guest.ram.changed_pages(first, pages) == {first, first + 2, first + 9}


def test_every_page_of_the_ring_that_is_written_is_marked_in_the_dirty_log(device: Device) -> None:
    with start_qemu(device, wanted=ACCEPTED, queue_size=768) as guest:
        log_bytes = (16 * MIB // PAGE_BYTES) // 8
        fd = os.memfd_create("dirty-log")
        try:
            os.ftruncate(fd, log_bytes)
            guest.front_end.set_log_base(log_bytes, 0, fd)
            features = guest.driver_features | PROTOCOL_FEATURES | LOG_ALL
            guest.front_end.set_features(features)
            uvas = guest.ring_uvas(INFLATE)
            guest.front_end.set_vring_addr(INFLATE, uvas, flags=1, log=0)
            guest.inflate([guest.free_range()[0]])
            place = guest.rings[INFLATE].layout
            assert place.used // PAGE_BYTES == place.desc // PAGE_BYTES + 3
            wanted = {place.desc // PAGE_BYTES + i for i in range(4)}

            def marked() -> set[int]:
                raw = os.pread(fd, log_bytes, 0)
                return {
                    8 * i + bit for i, byte in enumerate(raw) for bit in range(8) if byte >> bit & 1
                }

            wait_until(lambda: marked() == wanted, SECONDS, f"not exactly {wanted} are marked")
        finally:
            os.close(fd)


def test_a_driver_that_breaks_a_packed_ring_breaks_its_own_device_only(device: Device) -> None:
    with _start_qemu(device) as guest:
        ring = packed_ring(guest, INFLATE)
        ring.add_raw(0, [(guest.buffer_gpa(INFLATE), 4, F_NEXT)] * ring.size)
        ring.publish()
        guest.front_end.kick(INFLATE)
        assert guest.front_end.wait_err(INFLATE)
        assert guest.front_end.get_status() & 64, "NEEDS_RESET is not set"
        assert device.status().counters.broken_rings == 1
        scripts.stop_qemu(guest)
        scripts.run_qemu(guest, ACCEPTED)
        assert guest.inflate([guest.free_range()[0]]).length == 0


@pytest.mark.parametrize("num", [0, 32769, 3], ids=["none", "too many", "no power of two"])
def test_a_size_that_a_split_ring_cannot_have_is_refused(device: Device, num: int) -> None:
    with start_uml(device, wanted=VERSION_1) as guest:
        with pytest.raises(RefusedError):
            guest.front_end.set_vring_num(INFLATE, num)
        assert guest.inflate([guest.free_range()[0]]).length == 0


@pytest.mark.parametrize("num", [0, 32769])
def test_a_size_that_a_packed_ring_cannot_have_is_refused(device: Device, num: int) -> None:
    with STARTS["uml"](device) as guest:
        with pytest.raises(RefusedError):
            guest.front_end.set_vring_num(INFLATE, num)
        assert guest.inflate([guest.free_range()[0]]).length == 0


def test_what_came_before_the_features_is_checked_when_the_ring_is_made(device: Device) -> None:
    with STARTS["uml with 255 entries"](device) as guest:
        front_end = guest.front_end
        accepted = guest.driver_features | PROTOCOL_FEATURES
        for queue in guest.rings:
            front_end.set_vring_enable(queue, 0)
            front_end.set_vring_base(queue, 0)
        front_end.set_features(accepted & ~RING_PACKED)
        for queue in guest.rings:
            with pytest.raises(RefusedError):  # 255 is no power of two
                front_end.set_vring_enable(queue, 1)
        front_end.set_features(accepted)
        assert guest.inflate([guest.free_range()[0]]).length == 0


@pytest.mark.parametrize("base", [255, WRAP | 255, 0xFFFF_FFFF, 0x8000_0001])
def test_a_base_outside_the_ring_is_refused(device: Device, base: int) -> None:
    with STARTS["uml with 255 entries"](device) as guest:
        with pytest.raises(RefusedError):
            guest.front_end.set_vring_base(INFLATE, base)
        guest.front_end.set_vring_base(INFLATE, 0)
        assert guest.inflate([guest.free_range()[0]]).length == 0


def test_areas_of_a_packed_ring_that_are_not_aligned_are_refused(device: Device) -> None:
    with STARTS["uml"](device) as guest:
        desc, driver_event, device_event = guest.ring_uvas(INFLATE)
        for wrong in [
            (desc + 8, driver_event, device_event),
            (desc, driver_event + 2, device_event),
            (desc, driver_event, device_event + 2),
        ]:
            with pytest.raises(RefusedError):
                guest.front_end.set_vring_addr(INFLATE, wrong)
        assert guest.inflate([guest.free_range()[0]]).length == 0
