"""Each known front-end, as an independent peer imitates it, against the real back-end."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from tests.integration.device_under_test import SECONDS, Device, running_device
from tests.support import scripts
from tests.support.driver_ring import Buffer
from tests.support.front_end import BackendMessage, TableRegion
from tests.support.guest_memory import MIB, PAGE_BYTES, GuestRam, RamRegion
from tests.support.scripts import (
    EVENT_IDX,
    INDIRECT_DESC,
    MUST_TELL_HOST,
    STATS_VQ,
    VERSION_1,
    Where,
    start_cloud_hypervisor,
    start_crosvm,
    start_qemu,
    start_uml,
)
from tests.support.session import DEFLATE, INFLATE, STATS, Session
from tests.support.wait import wait_until
from tests.support.wire import CONFIG_CHANGE, PROTOCOL_MEM_SLOTS, RefusedError

from ballonet.balloon.facts import PagesRejected
from ballonet.device.balloon import BalloonSettings
from ballonet.virtio.features import RING_FEATURES, Feature
from ballonet.virtio.queues import QueueRole

Start = Callable[[Where], Session]

LOG_ALL = 1 << 26
CHANGED = BackendMessage(CONFIG_CHANGE, 1, b"")
STAT_FREE, STAT_TOTAL = 4, 5

_start_qemu_old = partial(start_qemu, protocol=0xFFFF_FFFF ^ PROTOCOL_MEM_SLOTS)
_start_uml_roomy = partial(start_uml, table_room=2)
_start_uml_plain = partial(start_uml, wanted=VERSION_1 | STATS_VQ)
_start_uml_6_1 = partial(start_uml, table_room=2, accepts_bit_30=False)
WITH_STATS: dict[str, Start] = {
    "uml": start_uml,
    "uml 6.1": _start_uml_6_1,
    "uml with room for two regions": _start_uml_roomy,
    "uml without ring features": _start_uml_plain,
    "qemu": start_qemu,
    "qemu without memory slots": _start_qemu_old,
    "crosvm": start_crosvm,
}
ALL: dict[str, Start] = WITH_STATS | {"cloud hypervisor": start_cloud_hypervisor}

each_front_end = pytest.mark.parametrize("start", list(ALL.values()), ids=list(ALL))
each_with_stats = pytest.mark.parametrize("start", list(WITH_STATS.values()), ids=list(WITH_STATS))


@each_front_end
def test_inflating_frees_exactly_the_pages_named_and_keeps_every_other_byte(
    device: Device, start: Start
) -> None:
    with start(device) as guest:
        ranges = [guest.free_range(i) for i in range(len(guest.ram.regions))]
        for first, pages in ranges:
            guest.ram.fill(first, pages)
        before = guest.ram.blocks()
        given: set[int] = set()
        for first, pages in ranges:
            wanted = [first + i for i in range(0, pages, 3)][:256]
            assert guest.inflate(wanted).length == 0
            given |= set(wanted)
        assert before - guest.ram.blocks() == len(given) * PAGE_BYTES
        lost = {pfn for first, pages in ranges for pfn in guest.ram.changed_pages(first, pages)}
        zero = {pfn for first, pages in ranges for pfn in guest.ram.zero_pages(first, pages)}
        assert (lost, zero) == (given, given)
        assert device.status().counters.inflated_pages == len(given)


@each_front_end
def test_deflating_is_answered_and_changes_no_byte(device: Device, start: Start) -> None:
    with start(device) as guest:
        first, pages = guest.free_range()
        guest.ram.fill(first, pages)
        assert guest.deflate(range(first, first + 64)).length == 0
        assert guest.ram.changed_pages(first, pages) == set()
        assert device.status().counters.deflated_pages == 64


@each_front_end
def test_a_page_written_after_its_deflate_keeps_what_was_written(
    device: Device, start: Start
) -> None:
    with start(device) as guest:
        first, _ = guest.free_range()
        guest.ram.fill(first, 4)
        guest.inflate([first, first + 1])
        guest.deflate([first])
        guest.ram.fill(first, 1)
        guest.inflate([first + 2])
        assert guest.ram.changed_pages(first, 4) == {first + 1, first + 2}


@each_front_end
def test_actual_is_what_the_driver_wrote_last(device: Device, start: Start) -> None:
    with start(device) as guest:
        for pages in (256, 0x0102_0304, 0):
            guest.write_actual(pages)
            assert guest.read_actual() == pages
            assert device.status().actual_pages == pages


@each_front_end
def test_a_new_target_is_announced_once_and_then_read(device: Device, start: Start) -> None:
    with start(device) as guest:
        assert guest.read_num_pages() == 0
        device.control.set_target(0x0001_2345)
        assert guest.front_end.read_backend_message() == CHANGED
        assert guest.read_num_pages() == 0x0001_2345
        device.settle()
        assert guest.front_end.read_backend_message(0) is None


@each_front_end
def test_a_target_set_before_the_front_end_came_is_read_at_its_start(
    device: Device, start: Start
) -> None:
    device.control.set_target(77)
    with start(device) as guest:
        assert guest.read_num_pages() == 77


@each_front_end
def test_a_driver_that_writes_actual_does_not_change_the_target(
    device: Device, start: Start
) -> None:
    with start(device) as guest:
        device.control.set_target(500)
        assert guest.front_end.read_backend_message() == CHANGED
        guest.write_actual(123)
        assert (guest.read_num_pages(), device.status().target_pages) == (500, 500)


@each_front_end
def test_must_tell_host_and_statistics_are_offered(device: Device, start: Start) -> None:
    with start(device) as guest:
        wanted = MUST_TELL_HOST | STATS_VQ | INDIRECT_DESC | EVENT_IDX | VERSION_1
        assert guest.offered & wanted == wanted
        guest.read_num_pages()  # its reply says that everything before was taken
        assert device.status().negotiated == guest.driver_features


def test_must_tell_host_is_not_offered_when_switched_off(tmp_path: Path) -> None:
    settings = BalloonSettings(RING_FEATURES | Feature.STATS_VQ)
    with running_device(tmp_path / "b.sock", settings) as device, start_qemu(device) as guest:
        assert not guest.offered & MUST_TELL_HOST


def test_without_discards_inflated_pages_stay(tmp_path: Path) -> None:
    settings = BalloonSettings(discards=False)
    with running_device(tmp_path / "b.sock", settings) as device, start_qemu(device) as guest:
        first, _ = guest.free_range()
        guest.ram.fill(first, 8)
        guest.inflate(range(first, first + 8))
        assert guest.ram.changed_pages(first, 8) == set()


def test_cloud_hypervisor_negotiates_no_bit_of_the_balloon(device: Device) -> None:
    with start_cloud_hypervisor(device) as guest:
        assert not guest.driver_features & 0xFF_FFFF
        assert set(guest.rings) == {INFLATE, DEFLATE}


def test_cloud_hypervisor_may_ask_for_no_channel(device: Device) -> None:
    with start_cloud_hypervisor(device, has_channel=False) as guest:
        device.control.set_target(9)
        wait_until(lambda: guest.read_num_pages() == 9, SECONDS, "the target does not arrive")


@each_with_stats
def test_a_statistics_buffer_is_kept_until_the_host_asks(device: Device, start: Start) -> None:
    with start(device) as guest:
        head = guest.put_stats([(STAT_FREE, 1 << 30), (STAT_TOTAL, 2 << 30), (999, 1)])
        wait_until(lambda: device.status().sample, SECONDS, "no sample arrives")
        device.settle()
        assert not guest.front_end.wait_call(STATS, 0)
        assert guest.rings[STATS].used_idx == 0
        device.control.stats.request()
        assert [(used.head, used.length) for used in guest.wait_used(STATS)] == [(head, 0)]


@each_with_stats
def test_every_request_brings_one_new_sample(device: Device, start: Start) -> None:
    with start(device) as guest:
        guest.put_stats([(STAT_FREE, 0)])
        for free in range(1, 20):
            wait_until(lambda: device.status().sample, SECONDS, "no sample arrives")
            device.control.stats.request()
            assert len(guest.wait_used(STATS)) == 1
            before = device.status().sample
            guest.put_stats([(STAT_FREE, free)])
            wait_until(
                lambda old=before: device.status().sample is not old,  # type: ignore[misc]
                SECONDS,
                "no newer sample arrives",
            )


def test_a_second_statistics_buffer_sends_the_first_one_back(device: Device) -> None:
    with start_qemu(device) as guest:
        first = guest.put_stats([(STAT_FREE, 1)])
        guest.put_stats([(STAT_FREE, 2)])
        assert [used.head for used in guest.wait_used(STATS)] == [first]


def test_a_held_statistics_buffer_is_before_the_base_and_comes_again(device: Device) -> None:
    with start_qemu(device) as guest:
        first, _ = guest.free_range()
        guest.inflate([first])
        head = guest.put_stats([(STAT_FREE, 7)])
        wait_until(lambda: device.status().sample, SECONDS, "no sample arrives")
        bases = scripts.stop_qemu(guest)
        assert bases == {INFLATE: 1, DEFLATE: 0, STATS: 0}
        before = device.status()
        scripts.run_qemu(guest, bases=bases)
        message = "the held buffer is not read again"
        messages = before.counters.stats_messages
        wait_until(lambda: device.status().counters.stats_messages > messages, SECONDS, message)
        assert device.status().stats is before.stats  # read again, but no newer for that
        device.control.stats.request()
        assert [used.head for used in guest.wait_used(STATS)] == [head]


def test_asking_for_a_position_stops_the_ring_by_itself(device: Device) -> None:
    with start_qemu(device) as guest:
        first, _ = guest.free_range()
        guest.ram.fill(first, 2)
        guest.inflate([first])
        assert guest.front_end.get_vring_base(INFLATE) == 1
        guest.rings[INFLATE].add([guest.write_pfns(INFLATE, [first + 1])])
        guest.rings[INFLATE].publish()
        guest.front_end.kick(INFLATE)
        assert guest.front_end.get_features()  # the device has seen the kick, if it still looks
        device.control.set_target(5)
        assert guest.front_end.read_backend_message() == CHANGED
        assert guest.rings[INFLATE].used_idx == 1
        assert guest.ram.changed_pages(first, 2) == {first}


def test_a_call_that_had_no_descriptor_is_made_up_for_when_one_comes(device: Device) -> None:
    with start_qemu(device) as guest:
        first, _ = guest.free_range()
        base = guest.front_end.get_vring_base(INFLATE)  # takes the descriptors away
        guest.rings[INFLATE].add([guest.write_pfns(INFLATE, [first])])
        guest.rings[INFLATE].publish()
        guest.front_end.set_vring_base(INFLATE, base)
        guest.front_end.set_vring_kick(INFLATE)
        used = guest.rings[INFLATE]
        wait_until(lambda: used.used_idx == 1, SECONDS, "the chain is served without a call")
        guest.front_end.set_vring_call(INFLATE)
        assert guest.front_end.wait_call(INFLATE)


def test_a_hundred_stops_while_a_buffer_is_held_lose_nothing(device: Device) -> None:
    with start_qemu(device) as guest:
        head = guest.put_stats([(STAT_FREE, 7)])
        for _ in range(100):
            bases = scripts.stop_qemu(guest)
            assert bases[STATS] == 0
            scripts.run_qemu(guest, bases=bases)
        wait_until(lambda: device.status().sample, SECONDS, "no sample arrives")
        device.control.stats.request()
        assert [used.head for used in guest.wait_used(STATS)] == [head]


def test_a_stopped_vm_is_told_of_a_new_target_only_when_it_runs_again(device: Device) -> None:
    with start_qemu(device) as guest:
        bases = scripts.stop_qemu(guest)
        device.control.set_target(33)
        device.settle()
        assert guest.front_end.read_backend_message(0) is None
        scripts.run_qemu(guest, bases=bases)
        assert guest.front_end.read_backend_message() == CHANGED
        assert guest.read_num_pages() == 33


def test_a_stopped_vm_gets_no_answer_before_it_runs_again(device: Device) -> None:
    with start_qemu(device) as guest:
        first, _ = guest.free_range()
        guest.ram.fill(first, 2)
        guest.inflate([first])
        bases = scripts.stop_qemu(guest)
        head = guest.rings[INFLATE].add([guest.write_pfns(INFLATE, [first + 1])])
        guest.rings[INFLATE].publish()
        assert guest.front_end.get_features()
        assert guest.rings[INFLATE].used_idx == 1
        assert guest.ram.changed_pages(first, 2) == {first}
        scripts.run_qemu(guest, bases=bases)
        assert [used.head for used in guest.wait_used(INFLATE)] == [head]
        assert guest.ram.changed_pages(first, 2) == {first, first + 1}


def test_chains_offered_while_a_uml_guest_is_suspended_wait_for_its_resume(device: Device) -> None:
    with start_uml(device) as guest:
        first, _ = guest.free_range()
        guest.inflate([first])
        for queue in guest.rings:
            guest.front_end.set_vring_enable(queue, 0)
        head = guest.rings[INFLATE].add([guest.write_pfns(INFLATE, [first + 1])])
        guest.rings[INFLATE].publish()
        guest.front_end.kick(INFLATE)
        device.settle()
        assert not guest.front_end.wait_call(INFLATE, 0)
        for queue in guest.rings:
            guest.front_end.set_vring_enable(queue, 1)
        assert [used.head for used in guest.wait_used(INFLATE)] == [head]


def test_a_uml_driver_that_is_bound_again_finds_the_device_as_new(device: Device) -> None:
    with start_uml(device) as guest:
        first, _ = guest.free_range()
        for round_no in range(3):
            guest.put_stats([(STAT_FREE, round_no)])
            guest.inflate([first + round_no])
            scripts.unbind_uml(guest)
            scripts.bind_uml(guest)
        assert guest.inflate([first]).length == 0


each_uml = pytest.mark.parametrize("start", [start_uml, _start_uml_6_1], ids=["new", "6.1"])


@each_uml
def test_a_uml_driver_that_left_has_its_memory_to_itself(device: Device, start: Start) -> None:
    with start(device) as guest:
        guest.put_stats([(STAT_FREE, 1)])
        wait_until(lambda: device.status().sample, SECONDS, "no sample arrives")
        scripts.unbind_uml(guest)
        place = guest.queue_gpa(0)
        everything = guest.ram.read(place, 5 * 0x10000)
        device.control.stats.request()
        device.control.set_target(77)
        for queue in guest.rings:
            guest.front_end.kick(queue)
        assert not device.status().running
        assert guest.ram.read(place, 5 * 0x10000) == everything


@each_uml
def test_a_uml_driver_that_is_bound_again_can_use_statistics(device: Device, start: Start) -> None:
    with start(device) as guest:
        guest.put_stats([(STAT_FREE, 1)])
        wait_until(lambda: device.status().sample, SECONDS, "no sample arrives")
        scripts.unbind_uml(guest)
        scripts.bind_uml(guest)
        before = device.status().sample
        head = guest.put_stats([(STAT_FREE, 2)])
        message = "no newer sample arrives"
        wait_until(lambda: device.status().sample is not before, SECONDS, message)
        device.control.stats.request()
        assert [used.head for used in guest.wait_used(STATS)] == [head]


def test_the_kernel_image_of_uml_is_not_memory_and_is_skipped(device: Device) -> None:
    with start_uml(device) as guest:
        first, pages = guest.free_range()
        guest.ram.fill(first, pages)
        end = guest.ram.regions[0].end_gpa // PAGE_BYTES
        guest.inflate([0, 1, first, end, 0x8000_0000, 0xFFFF_FFFF])
        assert guest.ram.changed_pages(first, pages) == {first}
        rejected = [event for event in device.events if isinstance(event, PagesRejected)]
        assert rejected == [PagesRejected(QueueRole.INFLATE, 5)]


def test_the_first_and_last_page_of_each_region_can_be_given(device: Device) -> None:
    with start_qemu(device) as guest:
        named = []
        for i, region in enumerate(guest.ram.regions):
            first, pages = guest.free_range(i)
            assert first + pages == region.end_gpa // PAGE_BYTES
            guest.ram.fill(first, 1)
            guest.ram.fill(first + pages - 1, 1)
            named += [first, first + pages - 1]
        before = guest.ram.blocks()
        guest.inflate([*named, 0xA0, 0xFF])
        assert before - guest.ram.blocks() == len(named) * PAGE_BYTES
        assert device.status().counters.rejected_pages == 2


@pytest.mark.parametrize("count", [1, 255, 256, 257, 1024, 2048])
def test_a_message_may_name_any_number_of_pages(device: Device, count: int) -> None:
    with start_qemu(device) as guest:
        first, pages = guest.free_range(1)
        guest.ram.fill(first, pages)
        guest.inflate(range(first + count - 1, first - 1, -1))
        assert guest.ram.changed_pages(first, pages) == set(range(first, first + count))


@pytest.mark.parametrize("is_indirect", [False, True])
def test_a_message_may_be_cut_into_single_bytes(device: Device, is_indirect: bool) -> None:
    with start_qemu(device) as guest:
        first, pages = guest.free_range()
        guest.ram.fill(first, pages)
        whole = guest.write_pfns(INFLATE, [first, first + 2, first + 9])
        pieces = [Buffer(whole.gpa + i, 1) for i in range(whole.length)]
        table = whole.gpa + PAGE_BYTES if is_indirect else None
        guest.transact(INFLATE, pieces, indirect_at=table)
        assert guest.ram.changed_pages(first, pages) == {first, first + 2, first + 9}


def test_eight_byte_page_numbers_of_windows_free_their_pages_and_not_page_0(
    device: Device,
) -> None:
    with start_qemu(device) as guest:
        first, pages = guest.free_range(1)
        guest.ram.fill(first, pages)
        guest.ram.fill(0, 1)
        words = [word for pfn in range(first, first + 512) for word in (pfn, 0)]
        guest.inflate(words)
        assert guest.ram.changed_pages(first, pages) == set(range(first, first + 512))
        assert guest.ram.changed_pages(0, 1) == set()


def test_a_full_ring_of_messages_is_answered_in_order(device: Device) -> None:
    with start_qemu(device) as guest:
        first, _ = guest.free_range()
        ring = guest.rings[INFLATE]
        buffer = guest.write_pfns(INFLATE, [first])
        heads = [ring.add([buffer]) for _ in range(ring.size)]
        assert ring.publish()
        guest.front_end.kick(INFLATE)
        used: list[int] = []
        while len(used) < len(heads):
            used += [entry.head for entry in guest.wait_used(INFLATE)]
        assert used == heads


@pytest.mark.parametrize("start", [start_uml, _start_uml_plain])
def test_a_ring_goes_round_many_times(device: Device, start: Start) -> None:
    with start(device) as guest:
        first, _ = guest.free_range()
        for i in range(1500):
            assert guest.inflate([first + i % 7]).length == 0


def test_a_driver_that_wants_no_calls_gets_none(device: Device) -> None:
    with start_qemu(device, wanted=VERSION_1) as guest:
        ring = guest.rings[INFLATE]
        ring.want_calls(False)
        first, _ = guest.free_range()
        guest.offer(INFLATE, [guest.write_pfns(INFLATE, [first])])
        wait_until(lambda: ring.used_idx == 1, SECONDS, "the chain is not used")
        device.settle()
        assert not guest.front_end.wait_call(INFLATE, 0)


def test_kicks_without_chains_are_harmless(device: Device) -> None:
    with start_qemu(device) as guest:
        for _ in range(50):
            guest.front_end.kick(INFLATE)
        first, _ = guest.free_range()
        assert guest.inflate([first]).length == 0


def test_qemu_that_writes_back_an_old_target_does_not_change_it(device: Device) -> None:
    with start_qemu(device) as guest:
        stale = guest.front_end.get_config(0, 16)
        device.control.set_target(4096)
        assert guest.front_end.read_backend_message() == CHANGED
        guest.front_end.set_config(0, stale)
        assert guest.read_num_pages() == 4096


@pytest.mark.parametrize("flags", [0, 1, 2])
def test_any_piece_of_the_configuration_can_be_read_and_written(device: Device, flags: int) -> None:
    with start_crosvm(device) as guest:
        device.control.set_target(0x0403_0201)
        assert guest.front_end.read_backend_message() == CHANGED
        for offset in range(20):
            for size in (1, 2, 3, 4, 7, 8, 64):
                data = guest.front_end.get_config(offset, size, flags)
                assert data[: max(0, 4 - offset)] == bytes(range(1 + offset, 5))[:size]
                guest.front_end.set_config(offset, bytes(size), flags)
        assert guest.read_num_pages() == 0x0403_0201


def test_memory_added_later_can_be_given_and_removed_memory_cannot(device: Device) -> None:
    size, gpa = 2 * MIB, 1 << 33
    extra = TableRegion(gpa, size, 0x7F99_0000_0000, 0)
    with (
        start_qemu(device) as guest,
        GuestRam([RamRegion(gpa, size, 0x7F99_0000_0000)]) as more,
    ):
        first = gpa // PAGE_BYTES
        more.fill(first, 16)
        fd = more.fd(more.regions[0])
        guest.front_end.add_mem_reg(extra, [fd])
        guest.inflate([first])
        assert more.changed_pages(first, 16) == {first}
        guest.front_end.rem_mem_reg(extra, [fd])
        guest.inflate([first + 1])
        assert more.changed_pages(first, 16) == {first}
        with pytest.raises(RefusedError):
            guest.front_end.rem_mem_reg(extra)


def test_a_memory_table_sent_again_while_rings_run_changes_nothing(device: Device) -> None:
    with _start_qemu_old(device) as guest:
        first, _ = guest.free_range()
        head = guest.put_stats([(STAT_FREE, 1)])
        wait_until(lambda: device.status().sample, SECONDS, "no sample arrives")
        regions = [TableRegion(r.gpa, r.size, r.uva, r.file_offset) for r in guest.ram.regions]
        for _ in range(10):
            fds = [guest.ram.fd(region) for region in guest.ram.regions]
            guest.front_end.set_mem_table(regions, fds, ack=True)
            assert guest.inflate([first]).length == 0
        device.control.stats.request()
        assert [used.head for used in guest.wait_used(STATS)] == [head]


def test_pages_the_device_writes_are_marked_in_the_dirty_log(device: Device) -> None:
    with start_qemu(device) as guest:
        log_bytes = (16 * MIB // PAGE_BYTES) // 8
        fd = os.memfd_create("dirty-log")
        try:
            os.ftruncate(fd, log_bytes)
            guest.front_end.set_log_base(log_bytes, 0, fd)
            used_gpa = guest.rings[INFLATE].layout.used
            guest.front_end.set_features(guest.driver_features | 1 << 30 | LOG_ALL)
            uvas = guest.ring_uvas(INFLATE)
            guest.front_end.set_vring_addr(INFLATE, uvas, flags=1, log=used_gpa)
            guest.inflate([guest.free_range()[0]])
            first, last = used_gpa // PAGE_BYTES, (guest.rings[INFLATE].layout.end - 1) >> 12
            wanted = set(range(first, last + 1))

            def marked() -> set[int]:
                raw = os.pread(fd, log_bytes, 0)
                return {
                    8 * i + bit for i, byte in enumerate(raw) for bit in range(8) if byte >> bit & 1
                }

            wait_until(lambda: marked() == wanted, SECONDS, f"not exactly {wanted} are marked")
        finally:
            os.close(fd)


def test_the_next_front_end_finds_the_target_but_nothing_of_the_last_guest(
    device: Device,
) -> None:
    with start_uml(device) as guest:
        device.control.set_target(640)
        guest.write_actual(320)
        guest.put_stats([(STAT_FREE, 5)])
        wait_until(lambda: device.status().sample, SECONDS, "no sample arrives")
    device.wait_until_free()
    with start_qemu(device) as guest:
        assert (guest.read_num_pages(), guest.read_actual()) == (640, 0)
        assert device.status().sample is None


def test_each_front_end_can_follow_each_other(device: Device) -> None:
    for start in [*ALL.values(), *reversed(ALL.values())]:
        with start(device) as guest:
            first, _ = guest.free_range()
            guest.ram.fill(first, 2)
            guest.inflate([first])
            assert guest.ram.changed_pages(first, 2) == {first}
        device.wait_until_free()


def test_a_reset_stops_the_rings_and_keeps_the_target(device: Device) -> None:
    with start_qemu(device) as guest:
        device.control.set_target(50)
        guest.front_end.reset_device()
        scripts.stop_qemu(guest)
        scripts.run_qemu(guest)
        first, _ = guest.free_range()
        assert guest.inflate([first]).length == 0
        assert guest.read_num_pages() == 50
