"""Whatever a monitor answers: it is read, or refused in one line."""

from __future__ import annotations

from typing import Any

import pytest

from ballonet.errors import MonitorError
from ballonet.vms.device_info import parse_device_info
from ballonet.vms.guest_stats import parse_guest_stats
from ballonet.vms.reply import integer, member, printable

MIB = 1 << 20
UNSET = 2**64 - 1


@pytest.mark.parametrize(
    "reply", [None, 3, [], {}, {"x": None}, {"x": "1"}, {"x": True}, {"x": 1.0}]
)
def test_what_is_not_an_integer_is_refused(reply: object) -> None:
    with pytest.raises(MonitorError, match="answers query without a proper 'x'"):
        integer(reply, "x", "query")


def test_an_integer_of_more_than_64_bits_is_refused() -> None:
    assert integer({"x": 2**64 - 1}, "x", "query") == 2**64 - 1
    with pytest.raises(MonitorError, match="more than 64 bits"):
        integer({"x": 2**64}, "x", "query")


def test_true_is_a_truth_value_and_no_number() -> None:
    assert member({"x": True}, "x", bool, "query") is True


def test_a_text_cannot_command_the_terminal() -> None:
    assert printable("a\x1b[31mb\r\n\tc\x9b") == "a�[31mb�\n\tc�"


def test_unset_statistics_are_absent() -> None:
    sent = {"stat-free-memory": 5, "stat-swap-in": UNSET, "stat-swap-out": -1, "stat-new": 7}
    stats = parse_guest_stats({"stats": sent, "last-update": 0})
    assert stats.values == {"memfree": 5}
    assert stats.last_update_s is None


@pytest.mark.parametrize(
    ("values", "available"),
    [
        ({"stat-available-memory": 9, "stat-free-memory": 1, "stat-disk-caches": 2}, 9),
        ({"stat-free-memory": 1, "stat-disk-caches": 2}, 3),
        ({"stat-free-memory": 1}, 1),
        ({"stat-disk-caches": 2}, None),
    ],
)
def test_available_is_the_drivers_word_or_what_is_free_and_cached(
    values: dict[str, int], available: int | None
) -> None:
    assert parse_guest_stats({"stats": values, "last-update": 1}).available_bytes == available


@pytest.mark.parametrize(
    "reply",
    [
        [],
        {"stats": {}},
        {"stats": [], "last-update": 1},
        {"stats": {"stat-swap-in": "x"}, "last-update": 1},
        {"stats": {}, "last-update": 2.5},
    ],
)
def test_statistics_of_another_shape_are_refused(reply: object) -> None:
    with pytest.raises(MonitorError):
        parse_guest_stats(reply)


def test_a_time_that_no_calendar_has_is_none() -> None:
    assert parse_guest_stats({"stats": {}, "last-update": 2**62}).last_update_s is None


INFO: dict[str, Any] = {
    "ram": 512 * MIB,
    "connected": True,
    "running": True,
    "features": ["stats-vq"],
    "host-memory": 5,
    "target-pages": 256,
    "actual-pages": 512,
    "stage": "moving",
    "why": "pages are moving",
    "problem": "no memory table",
    "request": {"number": 3, "asked-ms-ago": 1500.0, "sent-ms-ago": None},
    "stats-age": 2,
    "inhibited": [],
    "broken": None,
    "counters": {"bad-chains": 4},
}


def test_what_our_device_tells_is_read_in_bytes_and_seconds() -> None:
    info = parse_device_info(INFO)
    assert (info.target_bytes, info.balloon_bytes, info.logical_bytes) == (MIB, 2 * MIB, 510 * MIB)
    assert (info.request_age_s["asked"], info.request_age_s["sent"]) == (1.5, None)
    assert (info.problem, info.request_number, info.stats_age_s) == ("no memory table", 3, 2)
    assert info.counters == {"bad_chains": 4}


def test_a_device_that_tells_nothing_is_not_connected() -> None:
    info = parse_device_info({})
    assert (info.connected, info.has_driver, info.logical_bytes) == (False, False, None)


@pytest.mark.parametrize("name", sorted(INFO))
def test_a_member_of_another_type_is_refused(name: str) -> None:
    wrong = 7 if isinstance(INFO[name], str | list | dict | bool) else "x"
    with pytest.raises(MonitorError, match=r"x-ballonet-info"):
        parse_device_info(INFO | {name: 7 if INFO[name] is None else wrong})
