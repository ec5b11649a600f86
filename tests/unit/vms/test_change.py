"""Verdicts on a change: every row of the table, with the reason why it is not another."""

from __future__ import annotations

from dataclasses import replace

from ballonet.vms.change import (
    ABSENT_AFTER_S,
    SILENT_AFTER_S,
    STUCK_AFTER_S,
    Change,
    Look,
    Verdict,
)

MIB = 1 << 20
START, WANTED = 512 * MIB, 128 * MIB
DEADLINE = 1000.0


def change() -> Change:
    return Change(START, WANTED, 0.0)


def verdict(subject: Change, *looks: Look, deadline_s: float = DEADLINE) -> Verdict | None:
    """The verdict after the last look; there was none before."""
    for look in looks:
        subject.see(look)
        found = subject.verdict(deadline_s)
        if look is not looks[-1]:
            assert found is None
    return found


def test_a_size_that_the_guest_reports_is_reached() -> None:
    assert verdict(change(), Look(1, 300 * MIB), Look(2, WANTED)) is Verdict.REACHED


def test_a_size_that_stood_there_before_the_request_is_not_reached() -> None:
    same = Change(WANTED, WANTED, 0.0)
    assert verdict(same, Look(0.1, WANTED)) is None
    assert verdict(same, Look(SILENT_AFTER_S + 1, WANTED)) is Verdict.UNCONFIRMED


def test_a_size_that_our_device_knows_to_be_of_its_driver_is_reached_at_once() -> None:
    same = Change(WANTED, WANTED, 0.0)
    assert verdict(same, Look(0, WANTED, has_driver=True, is_current=True)) is Verdict.REACHED


def test_without_a_driver_nothing_is_reached() -> None:
    looks = [Look(at, WANTED, has_driver=False) for at in (0.0, 1.0, ABSENT_AFTER_S + 0.1)]
    assert verdict(Change(WANTED, WANTED, 0.0), *looks) is Verdict.NO_DRIVER


def test_a_driver_that_comes_soon_was_only_late() -> None:
    looks = [Look(1, START, has_driver=False), Look(2.5, START, has_driver=True)]
    assert verdict(change(), *looks) is None


def test_a_kernel_that_restarted_before_the_request_takes_its_time_and_is_followed() -> None:
    """Seen at QEMU 7.2: `actual` of the old kernel for 4 s, then all memory, then less and less."""
    subject = Change(WANTED, WANTED, 0.0)
    looks = [Look(0.1, WANTED), Look(4, WANTED), Look(4.6, 509 * MIB), Look(8, 300 * MIB)]
    assert verdict(subject, *looks, Look(11, WANTED)) is Verdict.REACHED


def test_a_reset_makes_what_was_reported_void_and_begins_a_new_time() -> None:
    subject = change()
    assert verdict(subject, Look(1, 129 * MIB), Look(2, 129 * MIB, resets=1)) is None
    # The old kernel's last word came through: nothing of the new kernel is known yet.
    assert verdict(subject, Look(2 + SILENT_AFTER_S * 2, 129 * MIB, resets=1, answers=9)) is None
    assert verdict(subject, Look(60, 509 * MIB, resets=1), Look(70, 129 * MIB, resets=1)) is None
    assert verdict(subject, Look(71, WANTED, resets=1)) is Verdict.REACHED


def test_a_new_kernel_that_never_reports_its_empty_balloon_is_known_by_its_statistics() -> None:
    subject = Change(WANTED, START, 0.0)
    assert verdict(subject, Look(1, WANTED, least_bytes=85 * MIB)) is None
    assert verdict(subject, Look(2, WANTED, least_bytes=400 * MIB)) is None
    assert verdict(subject, Look(3, WANTED, least_bytes=469 * MIB)) is Verdict.REACHED


def test_what_a_kernel_manages_shows_no_shrinking() -> None:
    assert verdict(change(), Look(1, START, least_bytes=600 * MIB)) is None


def test_a_guest_that_does_not_move_although_it_answers_is_stuck() -> None:
    looks = [Look(1, 300 * MIB, answers=1), Look(1 + STUCK_AFTER_S, 300 * MIB, answers=6)]
    last = Look(1.1 + STUCK_AFTER_S, 300 * MIB, answers=6)
    assert verdict(change(), *looks, last) is Verdict.STUCK


def test_a_guest_that_gets_no_processor_is_not_stuck() -> None:
    subject = change()
    looks = [Look(1, 300 * MIB, answers=1), Look(1 + SILENT_AFTER_S, 300 * MIB, answers=2)]
    assert verdict(subject, *looks) is None
    assert verdict(subject, Look(17, 290 * MIB, answers=2), Look(30, 290 * MIB, answers=3)) is None


def test_a_guest_that_answers_nothing_for_long_is_stuck() -> None:
    looks = [Look(SILENT_AFTER_S, START), Look(SILENT_AFTER_S + 0.1, START)]
    assert verdict(change(), *looks) is Verdict.STUCK


def test_a_guest_that_suffers_is_told_at_once() -> None:
    assert verdict(change(), Look(1.0, 200 * MIB, distress="it hurts")) is Verdict.SUFFERING


def test_a_guest_that_is_to_get_memory_may_suffer_until_it_has_it() -> None:
    subject = Change(WANTED, START, 0.0)
    assert verdict(subject, Look(1, 200 * MIB, distress="it hurts")) is None


def test_a_paused_guest_is_paused_and_not_stuck() -> None:
    looks = [Look(at, START, paused=True) for at in (0.0, ABSENT_AFTER_S, ABSENT_AFTER_S + 0.1)]
    assert verdict(change(), *looks) is Verdict.PAUSED


def test_a_short_pause_is_none() -> None:
    looks = [Look(1, 300 * MIB), Look(2, 300 * MIB, paused=True), Look(2.5, 300 * MIB)]
    assert verdict(change(), *looks, Look(3, 290 * MIB, paused=True)) is None


def test_a_guest_that_has_what_was_asked_and_then_is_paused_has_reached_it() -> None:
    assert verdict(change(), Look(1, 300 * MIB), Look(9, WANTED, paused=True)) is Verdict.REACHED


def test_our_device_tells_of_another_request() -> None:
    assert verdict(change(), Look(1, 400 * MIB, superseded=True)) is Verdict.SUPERSEDED


def test_a_guest_that_goes_the_other_way_follows_another_request() -> None:
    looks = [Look(1, 300 * MIB), Look(2, 308 * MIB), Look(3, 308 * MIB + 4096)]
    assert verdict(change(), *looks) is Verdict.SUPERSEDED


def test_a_guest_on_its_way_when_the_time_is_over_has_followed_in_part() -> None:
    subject = change()
    subject.see(Look(30, 300 * MIB))
    assert subject.verdict(30.0) is None
    subject.see(Look(30.1, 299 * MIB))
    assert subject.verdict(30.0) is Verdict.PARTIAL


def test_sizes_are_equal_within_a_page() -> None:
    assert verdict(change(), Look(1, WANTED + 4095)) is Verdict.REACHED
    assert verdict(change(), Look(1, WANTED + 4096)) is None


def test_progress_has_speed_and_the_time_that_is_left() -> None:
    subject = change()
    subject.see(Look(1, 412 * MIB))
    progress = subject.see(Look(2, 320 * MIB))
    assert progress.fraction == 0.5
    assert progress.bytes_per_s == 96 * MIB
    assert progress.eta_s == 2.0
    assert replace(progress, wanted_bytes=START).fraction == 1.0
    assert subject.see(Look(9, 320 * MIB)).eta_s is None
