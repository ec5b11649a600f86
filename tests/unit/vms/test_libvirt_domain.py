"""What libvirt tells, in bytes and under the specification's names."""

from __future__ import annotations

import pytest

from ballonet.errors import MonitorError
from ballonet.virtio.stats import STATS
from ballonet.vms.libvirt_domain import (
    job_in_words,
    kib_of,
    parse_actual,
    parse_balloon,
    parse_record,
    parse_statistics,
    silence_of,
)

BALLOON = "<memballoon model='virtio' autodeflate='on'><stats period='{}'/></memballoon>"
#: As libvirt 9.0 has told it of a guest of 256 MiB.
RECORD = {
    "state.state": 1,
    "state.reason": 1,
    "balloon.current": 262144,
    "balloon.maximum": 262144,
    "balloon.swap_in": 1,
    "balloon.swap_out": 2,
    "balloon.major_fault": 3,
    "balloon.minor_fault": 4,
    "balloon.unused": 180000,
    "balloon.available": 220000,
    "balloon.usable": 190000,
    "balloon.last-update": 1_700_000_000,
    "balloon.disk_caches": 5000,
    "balloon.hugetlb_pgalloc": 5,
    "balloon.hugetlb_pgfail": 6,
    "balloon.rss": 400000,
}


def test_sizes_become_bytes_and_counts_stay() -> None:
    record = parse_record(RECORD)
    assert (record.memory_bytes, record.actual_bytes) == (256 << 20, 256 << 20)
    assert record.stats.last_update_s == 1_700_000_000
    assert record.stats.values == {
        "swap_in": 1 << 10,
        "swap_out": 2 << 10,
        "majflt": 3,
        "minflt": 4,
        "memfree": 180000 << 10,
        "memtot": 220000 << 10,
        "avail": 190000 << 10,
        "caches": 5000 << 10,
        "htlb_pgalloc": 5,
        "htlb_pgfail": 6,
    }
    assert set(record.stats.values) <= {row.name for row in STATS}


def test_available_is_all_and_usable_is_what_is_available() -> None:
    stats = parse_record(RECORD).stats
    assert stats.total_bytes == 220000 << 10
    assert stats.available_bytes == 190000 << 10


def test_what_is_not_told_is_missing() -> None:
    stats = parse_statistics({"actual": 262144, "last_update": 0, "rss": 400000})
    assert (stats.last_update_s, stats.values) == (None, {})
    locked = {
        key: value
        for key, value in RECORD.items()
        if key.endswith(("maximum", "current", "state", "reason"))
    }
    assert not parse_record(locked).is_whole
    assert parse_record(RECORD).is_whole
    assert parse_actual({"rss": 1}) is None
    assert parse_actual({"actual": 2}) == 2 << 10


@pytest.mark.parametrize("value", ["262144", None, -(1 << 70), 1.5, True])
def test_what_is_no_number_is_refused(value: object) -> None:
    with pytest.raises(MonitorError, match="domain statistics"):
        parse_record({**RECORD, "balloon.current": value})


@pytest.mark.parametrize(
    ("state", "reason", "paused", "problem"),
    [
        (1, 5, False, None),
        (3, 1, True, None),
        (3, 2, True, "it is migrating"),
        (3, 5, True, "paused by an error of its disk"),
        (3, 10, True, "its guest has crashed"),
        (6, 1, True, "its guest has crashed"),
        (7, 0, True, "its guest has suspended it"),
    ],
)
def test_a_state_has_its_word(state: int, reason: int, paused: bool, problem: str | None) -> None:
    record = parse_record({**RECORD, "state.state": state, "state.reason": reason})
    assert (record.paused, record.problem) == (paused, problem)


def test_a_job_has_its_word() -> None:
    assert job_in_words(5) == "libvirt is migrating it"
    assert job_in_words(99) == job_in_words("more") == "libvirt is busy with it"
    assert job_in_words(None) is None


@pytest.mark.parametrize(
    ("control", "word"),
    [
        ([2, 0, 61_000], "its QEMU has not answered libvirt for 61 s"),
        ([3, 2, 0], "libvirt has lost its monitor"),
        ([1, 0, 5], "libvirt does not tell its statistics"),
    ],
)
def test_a_silent_domain_has_its_word(control: list[int], word: str) -> None:
    assert silence_of(control) == word


def test_a_guest_keeps_no_less_than_was_asked_for() -> None:
    assert [kib_of(size) for size in (0, 1, 1024, 1025)] == [0, 1, 1, 2]


@pytest.mark.parametrize(
    ("element", "there", "interval_s", "is_oom"),
    [
        (
            "<memballoon model='virtio' autodeflate='on'><stats period='7'/></memballoon>",
            True,
            7,
            True,
        ),
        ("<memballoon model='virtio'/>", True, 0, False),
        ("<memballoon model='none'/>", False, 0, False),
        ("", False, 0, False),
    ],
)
def test_the_balloon_is_read(element: str, there: bool, interval_s: int, is_oom: bool) -> None:
    found = parse_balloon(f"<domain><devices>{element}</devices></domain>")
    assert (found.is_there, found.poll_interval_s, found.deflates_on_oom) == (
        there,
        interval_s,
        is_oom,
    )


@pytest.mark.parametrize(
    "xml",
    [
        "",
        "<domain>",
        f"<domain><devices>{BALLOON.format('many')}</devices></domain>",
    ],
)
def test_a_description_without_sense_is_refused(xml: str) -> None:
    with pytest.raises(MonitorError, match="makes no sense"):
        parse_balloon(xml)
