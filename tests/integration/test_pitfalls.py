"""What went wrong in other balloons, one test for each; section and row of our list of them.

A row that a test elsewhere shows is in ELSEWHERE; one that this device cannot get wrong, or that
belongs to a part not built yet, in NOT_HERE with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from tests.integration.device_under_test import SECONDS, Device, running_device
from tests.support import scripts
from tests.support.driver_ring import Buffer
from tests.support.guest_memory import PAGE_BYTES
from tests.support.scripts import FIVE_QUEUES, STATS_VQ, start_qemu, start_uml
from tests.support.session import HINT, INFLATE, STATS, Session
from tests.support.wait import holds, wait_until

from ballonet.balloon.facts import PagesHinted
from ballonet.device.balloon import BalloonSettings
from ballonet.virtio.features import BALLOON_FEATURES, RING_FEATURES, Feature

ELSEWHERE: Final = {
    "7.1-1": "test_inflate_a_deflate_a_inflate_b_keeps_a",
    "7.1-4": "test_inhibited_discards_keep_memory_while_every_request_is_answered",
    "7.1-5": "test_many_ranges_go_in_pieces_and_a_reason_that_arises_midway_keeps_the_rest",
    "7.1-6": "test_a_file_is_mapped_shared_and_for_writing_only_where_that_is_allowed",
    "7.1-7": "test_a_huge_page_given_in_part_is_kept",
    "7.1-9": "test_every_inflate_is_answered_once_and_exactly_its_pages_go",
    "7.1-10": "test_reports_of_a_guest_that_expects_its_poison_are_only_answered",
    "7.1-11": "test_parts_of_many_messages_free_nothing_where_it_is_not",
    "7.2-16": "test_the_longest_interval_does_not_overflow",
    "7.2-17": "test_unknown_tags_are_kept_apart_and_a_part_of_an_entry_is_ignored",
    "7.2-18": "test_every_reason_for_having_no_statistics_has_its_own_words",
    "7.2-19": "test_every_reason_for_having_no_statistics_has_its_own_words",
    "7.2-20": "test_the_first_buffer_of_a_legacy_driver_is_held_but_not_believed",
    "7.2-21": "test_a_huge_buffer_is_read_only_up_to_its_cap",
    "7.2-22": "test_the_first_poll_is_at_once_and_the_next_an_interval_after_the_answer",
    "7.3-24": "test_an_available_index_that_jumps_is_found",
    "7.3-25": "test_a_queue_that_does_not_exist_is_refused",
    "7.3-26": "test_a_chain_against_the_rules_is_found",
    "7.3-27": "test_a_gibibyte_of_page_numbers_does_not_keep_the_socket_waiting",
    "7.3-28": "test_events_are_a_second_apart_and_the_last_value_arrives",
    "7.3-29": "test_one_line_of_a_kind_in_a_second_and_the_rest_is_counted",
    "7.4-33": "test_a_repeated_id_does_not_start_a_finished_round_again",
    "7.4-35": "test_a_migration_that_died_lets_the_driver_have_its_pages",
    "7.4-38": "test_word_and_pages_in_one_chain_are_taken_in_that_order",
    "7.4-42": "test_a_target_set_during_a_round_does_not_end_it",
    "7.4-43": "test_a_hint_that_is_not_on_page_borders_is_rounded_inwards",
}
NOT_HERE: Final = {
    "7.1-12": "targets are rounded by whoever sets them; Linux rounds them since 6.1.y",
    "7.4-34": "state and hints change on one thread",
    "7.4-36": "the migration engine decides on postcopy; it is not built yet",
    "7.4-40": "nothing is created by feature, so nothing is freed by feature",
    "7.4-41": "no state is carried to another host yet",
    "7.4-44": "the dirty log belongs to the migration engine, which is not built yet",
    "7.4-45": "no state is saved yet",
}


@pytest.fixture
def settings() -> BalloonSettings:
    return BalloonSettings(RING_FEATURES | BALLOON_FEATURES)


@pytest.fixture
def guest(device: Device) -> Iterator[Session]:
    with start_uml(device, wanted=FIVE_QUEUES) as made:
        yield made


def test_every_test_that_is_named_here_exists() -> None:
    folder = Path(__file__).parents[1]
    text = "".join(path.read_text(encoding="utf-8") for path in folder.rglob("test_*.py"))
    there = set(re.findall(r"^def (test_\w+)", text, re.MULTILINE))
    assert set(ELSEWHERE.values()) <= there


def test_7_1_2_page_numbers_with_the_top_bit_are_not_negative(
    device: Device, guest: Session
) -> None:
    guest.inflate([0x8000_0000, 0xFFFF_FFFF, 0x8000_0000 - 1])
    assert device.status().counters.rejected_pages == 3
    assert device.status().counters.discard_calls == 0


def test_7_1_3_only_pages_wholly_inside_memory_are_dropped(device: Device) -> None:
    with start_qemu(device) as guest:
        region = guest.ram.regions[1]
        last = region.end_gpa // PAGE_BYTES - 1
        guest.ram.fill(last - 3, 4)
        hole = guest.ram.regions[0].end_gpa // PAGE_BYTES
        guest.inflate([last, last + 1, hole])
        assert guest.ram.changed_pages(last - 3, 4) == {last}
        assert device.status().counters.rejected_pages == 2


def test_7_1_8_deflating_brings_no_memory_in(guest: Session) -> None:
    first, _ = guest.free_range()
    guest.ram.fill(first, 64)
    guest.inflate(range(first, first + 64))
    blocks = guest.ram.blocks()
    guest.deflate(range(first, first + 64))
    assert guest.ram.blocks() == blocks


def test_7_2_13_of_three_statistics_buffers_the_older_come_back(
    device: Device, guest: Session
) -> None:
    heads = [guest.put_stats([(4, number)]) for number in range(3)]
    seen = [used.head for used in guest.wait_used(STATS)]
    while len(seen) < 2:
        seen += [used.head for used in guest.wait_used(STATS)]
    assert seen == heads[:2]
    sample = device.status().sample
    assert sample is not None
    assert sample.value("memfree") == 2


def test_7_2_14_a_held_buffer_is_not_lost_in_a_hundred_stops(device: Device) -> None:
    with start_qemu(device) as guest:
        head = guest.put_stats([(4, 1)])
        for _ in range(100):
            bases = scripts.stop_qemu(guest)
            assert bases[STATS] in {0, 1}
            scripts.run_qemu(guest, bases=bases)
        wait_until(lambda: device.status().sample, SECONDS, "no sample arrives")
        device.control.stats.request()
        assert [used.head for used in guest.wait_used(STATS)] == [head]


def test_7_2_15_polling_goes_on_after_a_stop(device: Device) -> None:
    with start_qemu(device) as guest:
        guest.put_stats([(4, 1)])
        device.control.stats.set_poll_interval(1)
        guest.wait_used(STATS)
        guest.put_stats([(4, 2)])
        scripts.run_qemu(guest, bases=scripts.stop_qemu(guest))
        assert guest.wait_used(STATS)


def test_7_2_23_statistics_are_always_offered(tmp_path: Path) -> None:
    with running_device(tmp_path / "b") as made, start_uml(made.path) as guest:
        assert guest.offered & STATS_VQ
        assert Feature.STATS_VQ in made.status().negotiated


def test_7_3_30_pages_in_any_order_are_dropped_in_one_call(device: Device, guest: Session) -> None:
    first, _ = guest.free_range()
    guest.inflate(range(first + 255, first - 1, -1))
    assert device.status().counters.discard_calls == 1
    guest.inflate([first, first, first])  # and twice the same is once
    assert device.status().counters.discard_calls == 2


def test_7_3_31_a_round_with_a_silent_guest_burns_no_processor(
    device: Device, guest: Session
) -> None:
    device.control.hints.begin()
    guest.front_end.read_backend_message()
    guest.say(guest.read_cmd_id())
    device.settle()
    loop = device.control.server.loop
    turns = loop.turns
    assert holds(lambda: loop.turns == turns, 0.5)


def test_7_3_32_a_guest_that_never_stops_a_round_does_not_keep_it_open(
    device: Device, guest: Session
) -> None:
    first, _ = guest.free_range()
    for _ in range(3):
        device.control.hints.begin()
        guest.front_end.read_backend_message()
        guest.say(guest.read_cmd_id())
        guest.hint(first, 4)
        device.control.hints.stop().result(60)
        guest.front_end.read_backend_message()
        guest.hint(first, 4)
    assert device.status().counters.hinted_pages == 3 * 4
    assert device.status().counters.ignored_hint_pieces == 3


def test_7_4_37_every_piece_of_a_hint_counts(device: Device, guest: Session) -> None:
    first, _ = guest.free_range()
    device.control.hints.begin()
    guest.front_end.read_backend_message()
    guest.say(guest.read_cmd_id())
    pieces = [Buffer((first + 4 * i) * PAGE_BYTES, PAGE_BYTES, is_writable=True) for i in range(5)]
    assert guest.transact(HINT, pieces).length == 0  # 7.4-39: nothing was written
    hinted = [event for event in device.events if isinstance(event, PagesHinted)]
    assert hinted[0].runs.first_pfns.tolist() == [first + 4 * i for i in range(5)]


def test_7_5_50_a_kick_before_the_ring_is_enabled_is_not_lost(device: Device) -> None:
    with start_qemu(device) as guest:
        first, _ = guest.free_range()
        guest.front_end.set_vring_enable(INFLATE, 0, ack=True)
        guest.offer(INFLATE, [guest.write_pfns(INFLATE, [first])])
        guest.front_end.kick(INFLATE)
        guest.front_end.set_vring_enable(INFLATE, 1, ack=True)
        assert len(guest.wait_used(INFLATE)) == 1
