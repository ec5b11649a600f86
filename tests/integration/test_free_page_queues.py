"""Hints and reports: what a driver says of its free pages, and what becomes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from tests.integration.device_under_test import SECONDS, Device
from tests.support.driver_ring import Buffer
from tests.support.guest_memory import PAGE_BYTES
from tests.support.scripts import FIVE_QUEUES, PAGE_POISON, start_qemu, start_uml
from tests.support.session import HINT, REPORTING, Session
from tests.support.wait import wait_until

from ballonet.balloon.facts import HintRoundChanged, PagesHinted
from ballonet.balloon.inhibition import InhibitReason
from ballonet.device.balloon import BalloonSettings
from ballonet.virtio.features import BALLOON_FEATURES, RING_FEATURES

POISON = 0xAAAA_AAAA
FIRST_ROUND = 0x8000_0001
EVERYTHING = BalloonSettings(RING_FEATURES | BALLOON_FEATURES)


@pytest.fixture
def settings() -> BalloonSettings:
    return EVERYTHING


@pytest.fixture
def guest(device: Device) -> Iterator[Session]:
    with start_uml(device, wanted=FIVE_QUEUES) as made:
        yield made


def hinted(device: Device) -> list[tuple[int, int]]:
    """Every run of pages that arrived as a hint."""
    return [
        run
        for event in device.events
        if isinstance(event, PagesHinted)
        for run in zip(event.runs.first_pfns.tolist(), event.runs.pages.tolist(), strict=True)
    ]


def wait_for_state(device: Device, state: str) -> None:
    wait_until(lambda: device.status().hint_state == state, SECONDS, f"no {state}")


def test_a_round_brings_hints_and_nothing_is_touched(device: Device, guest: Session) -> None:
    first, _ = guest.free_range()
    guest.ram.fill(first, 64)
    device.control.hints.begin()
    guest.front_end.read_backend_message()
    assert guest.read_cmd_id() == FIRST_ROUND
    guest.say(FIRST_ROUND)
    assert guest.read_cmd_id() == FIRST_ROUND  # QEMU's device shows STOP here
    guest.hint(first, 16)
    guest.hint(first + 32, 16)
    guest.say(0)
    guest.hint(first + 16, 16)  # after its own STOP
    assert hinted(device) == [(first, 16), (first + 32, 16)]
    assert guest.read_cmd_id() == 0
    counters = device.status().counters
    assert (counters.hint_rounds, counters.hinted_pages) == (1, 32)
    assert counters.ignored_hint_pieces == 1
    assert guest.ram.changed_pages(first, 64) == set()
    device.control.hints.finish()
    guest.front_end.read_backend_message()
    assert guest.read_cmd_id() == 1


def test_a_hint_under_an_older_id_is_ignored(device: Device, guest: Session) -> None:
    first, _ = guest.free_range()
    device.control.hints.begin()
    guest.front_end.read_backend_message()
    guest.say(FIRST_ROUND)
    device.control.hints.stop().result(60)
    device.control.hints.begin()
    guest.front_end.read_backend_message()
    guest.front_end.read_backend_message()
    guest.hint(first, 8)
    guest.say(0)
    guest.say(FIRST_ROUND)
    guest.hint(first, 8)
    assert hinted(device) == []
    assert guest.read_cmd_id() == FIRST_ROUND + 1
    guest.say(FIRST_ROUND + 1)
    guest.hint(first, 8)
    assert hinted(device) == [(first, 8)]


def test_once_the_round_is_stopped_no_hint_of_it_comes(device: Device, guest: Session) -> None:
    first, _ = guest.free_range()
    device.control.hints.begin()
    guest.front_end.read_backend_message()
    guest.say(FIRST_ROUND)
    guest.hint(first, 8)
    device.control.hints.stop().result(60)
    seen = len(hinted(device))
    guest.hint(first + 8, 8)
    assert len(hinted(device)) == seen == 1


def test_word_and_pages_in_one_chain_are_taken_in_that_order(
    device: Device, guest: Session
) -> None:
    first, _ = guest.free_range()
    device.control.hints.begin()
    guest.front_end.read_backend_message()
    guest.ram.write(guest.buffer_gpa(HINT), FIRST_ROUND.to_bytes(4, "little"))
    block = Buffer(first * PAGE_BYTES, 4 * PAGE_BYTES, is_writable=True)
    guest.transact(HINT, [Buffer(guest.buffer_gpa(HINT), 4), block])
    assert hinted(device) == [(first, 4)]


def test_a_hint_that_is_not_on_page_borders_is_rounded_inwards(
    device: Device, guest: Session
) -> None:
    first, _ = guest.free_range()
    device.control.hints.begin()
    guest.front_end.read_backend_message()
    guest.say(FIRST_ROUND)
    gpa = first * PAGE_BYTES
    for start, length in ((gpa + 1, 3 * PAGE_BYTES), (gpa + 1, PAGE_BYTES), (gpa, PAGE_BYTES - 1)):
        guest.transact(HINT, [Buffer(start, length, is_writable=True)])
    assert hinted(device) == [(first + 1, 2)]


def test_a_word_of_the_wrong_length_breaks_the_device(device: Device, guest: Session) -> None:
    guest.offer(HINT, [Buffer(guest.buffer_gpa(HINT), 8)])
    wait_until(lambda: device.status().broken, SECONDS, "the device still runs")
    assert "8 bytes" in (device.status().broken or "")


def test_a_migration_that_died_lets_the_driver_have_its_pages(
    device: Device, guest: Session
) -> None:
    device.control.hints.begin(lease_s=0.05)
    guest.front_end.read_backend_message()
    guest.say(FIRST_ROUND)
    wait_for_state(device, "DONE")
    guest.front_end.read_backend_message()
    assert guest.read_cmd_id() == 1


def test_a_stopped_machine_is_not_asked_for_hints(device: Device) -> None:
    device.control.hints.begin()
    wait_for_state(device, "DONE")
    with start_uml(device, wanted=FIVE_QUEUES) as guest:
        assert guest.read_cmd_id() == 1
    assert HintRoundChanged("DONE", 0x8000_0000) in device.events


def test_a_driver_without_the_feature_is_not_asked(device: Device) -> None:
    with start_uml(device) as guest:
        device.control.hints.begin()
        device.control.set_target(3)
        assert guest.front_end.read_backend_message()
        assert (guest.read_num_pages(), guest.read_cmd_id()) == (3, 0)


def test_hints_of_a_poisoning_guest_are_not_used(device: Device) -> None:
    with start_uml(device, wanted=FIVE_QUEUES | PAGE_POISON) as guest:
        first, _ = guest.free_range()
        guest.write_poison(POISON)
        device.control.hints.begin()
        guest.front_end.read_backend_message()
        guest.say(FIRST_ROUND)
        guest.hint(first, 8)
        assert hinted(device) == []
        assert device.status().counters.ignored_hint_pieces == 1


def test_reported_blocks_are_freed_and_their_neighbours_kept(
    device: Device, guest: Session
) -> None:
    first, _ = guest.free_range()
    guest.ram.fill(first, 40)
    before = guest.ram.blocks()
    blocks = [((first + 4 * i) * PAGE_BYTES, 2 * PAGE_BYTES) for i in range(8)]
    assert guest.report(blocks[::-1]).length == 0
    gone = {first + 4 * i + j for i in range(8) for j in range(2)}
    assert guest.ram.zero_pages(first, 40) == guest.ram.changed_pages(first, 40) == gone
    assert before - guest.ram.blocks() == len(gone) * PAGE_BYTES
    counters = device.status().counters
    assert counters.reported_bytes == counters.discarded_bytes == len(gone) * PAGE_BYTES


def test_a_chain_that_fills_the_whole_ring_is_served(device: Device) -> None:
    with start_uml(device, wanted=FIVE_QUEUES, queue_size=32) as guest:
        first, _ = guest.free_range()
        guest.ram.fill(first, 64)
        for _ in range(3):
            guest.report([((first + 2 * i) * PAGE_BYTES, PAGE_BYTES) for i in range(32)])
            assert guest.rings[REPORTING].free_descriptors == 32
        assert guest.ram.zero_pages(first, 64) == {first + 2 * i for i in range(32)}


def test_blocks_of_several_regions_are_freed_and_what_is_no_memory_is_left_out(
    device: Device,
) -> None:
    with start_qemu(device, wanted=FIVE_QUEUES) as guest:
        low, _ = guest.free_range(1)
        high, _ = guest.free_range(2)
        for first in (low, high):
            guest.ram.fill(first, 8)
        last = guest.ram.regions[2].end_gpa
        guest.report(
            [
                (low * PAGE_BYTES, 2 * PAGE_BYTES),
                (0xA_0000, PAGE_BYTES),  # a hole
                (high * PAGE_BYTES + 100, 2 * PAGE_BYTES),  # one whole page lies inside
                (last - PAGE_BYTES, 2 * PAGE_BYTES),  # beyond the end
                (2**64 - PAGE_BYTES, PAGE_BYTES),
            ]
        )
        assert guest.ram.changed_pages(low, 8) == {low, low + 1}
        assert guest.ram.changed_pages(high, 8) == {high + 1}
        assert device.status().counters.rejected_pieces == 3


@pytest.mark.parametrize(("poison", "is_freed"), [(None, False), (0, True), (POISON, False)])
@pytest.mark.parametrize("start", [start_uml, start_qemu], ids=["uml", "qemu"])
def test_reports_of_a_guest_that_expects_its_poison_are_only_answered(
    device: Device, poison: int | None, is_freed: bool, start: Callable[..., Session]
) -> None:
    with start(device, wanted=FIVE_QUEUES | PAGE_POISON) as guest:
        first, _ = guest.free_range()
        guest.ram.fill(first, 4)
        if poison is not None:
            guest.write_poison(poison)
        guest.report([(first * PAGE_BYTES, 4 * PAGE_BYTES)])
        assert bool(guest.ram.changed_pages(first, 4)) == is_freed
        counters = device.status().counters
        assert counters.skipped_report_bytes == (0 if is_freed else 4 * PAGE_BYTES)
        guest.inflate(range(first, first + 4))  # the balloon is another matter
        assert len(guest.ram.zero_pages(first, 4)) == 4


def test_discarding_of_reports_can_be_switched_and_slowed_while_they_are_answered(
    device: Device, guest: Session
) -> None:
    first, _ = guest.free_range()
    guest.ram.fill(first, 64)

    def report(page: int, pages: int = 1) -> bool:
        guest.report([(page * PAGE_BYTES, pages * PAGE_BYTES)])
        return bool(guest.ram.changed_pages(page, pages))

    def limit(bytes_per_s: int | None) -> None:
        device.control.set_report_rate(bytes_per_s)
        device.status()  # what was asked before has happened now

    assert report(first)
    limit(0)
    assert not report(first + 1)
    limit(PAGE_BYTES)
    assert report(first + 2, 30)  # half a minute's worth: the next ones wait that long
    assert not report(first + 32)
    limit(None)
    assert report(first + 33, 30)
    assert device.status().counters.skipped_report_bytes == 2 * PAGE_BYTES


def test_inhibited_discards_keep_memory_while_every_request_is_answered(
    device: Device, guest: Session
) -> None:
    first, _ = guest.free_range()
    guest.ram.fill(first, 16)
    device.control.inhibit(InhibitReason.SNAPSHOT).result(60)
    device.control.inhibit(InhibitReason.PINNED).result(60)
    guest.inflate(range(first, first + 4))
    guest.report([((first + 4) * PAGE_BYTES, 4 * PAGE_BYTES)])
    device.control.lift(InhibitReason.SNAPSHOT).result(60)
    guest.inflate([first + 8])
    assert guest.ram.changed_pages(first, 16) == set()
    assert device.status().inhibited == (InhibitReason.PINNED,)
    device.control.lift(InhibitReason.PINNED).result(60)
    guest.inflate([first + 9])
    assert guest.ram.changed_pages(first, 16) == {first + 9}
    assert device.status().counters.skipped_inhibited_bytes == 9 * PAGE_BYTES
