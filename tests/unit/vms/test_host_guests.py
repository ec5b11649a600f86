"""What a host tells of one guest: read, or refused in one line."""

from __future__ import annotations

from typing import Any

import pytest

from ballonet.errors import MonitorError
from ballonet.vms.host_guests import observation_of
from ballonet.vms.observation import MachineId, Observation

MIB = 1 << 20
WHO = MachineId("ballonet", "web", "/run/web.qmp", 7)
ROW: dict[str, Any] = {
    "state": "running",
    "age": 1.5,
    "paused": False,
    "connected": True,
    "running": True,
    "ram": 64 * MIB,
    "host-memory": 5 * MIB,
    "target-pages": 512,
    "actual-pages": 256,
    "guest-stats-polling-interval": 0,
    "guest-stats": {
        "stats": {"stat-free-memory": 0, "stat-swap-in": None},
        "last-update": 100,
    },
}


def read(row: object) -> Observation:
    found = observation_of(WHO, row, 10.0)
    assert isinstance(found, Observation)
    return found


def test_an_observation_is_of_when_the_guest_has_told_it() -> None:
    assert read(ROW).at_s == 8.5


def test_a_statistic_that_is_0_is_known_and_one_that_is_null_is_not() -> None:
    look = read(ROW)
    assert {name: one.value for name, one in look.statistics.items()} == {"memfree": 0}
    assert (look.stats_last_update_s, look.poll_interval_s) == (100, 0)
    assert (look.target_bytes, look.actual_bytes, look.host.held_bytes) == (
        62 * MIB,
        63 * MIB,
        5 * MIB,
    )


def test_before_its_first_statistics_a_guest_has_none() -> None:
    look = read(ROW | {"guest-stats": {"stats": {}, "last-update": None}})
    assert (look.statistics, look.stats_last_update_s) == ({}, None)


@pytest.mark.parametrize(
    ("state", "why_not"),
    [
        ("unresponsive", "the process of its device does not answer"),
        ("restarting", "the process of its device has ended, and is started again"),
        ("odd\x1b[31m", "odd�[31m"),
    ],
)
def test_of_a_guest_that_tells_nothing_it_is_told_why(state: str, why_not: str) -> None:
    nothing = dict.fromkeys(ROW) | {"state": state}
    assert observation_of(WHO, nothing, 10.0) == why_not


@pytest.mark.parametrize("name", sorted(ROW))
def test_a_row_of_another_shape_is_refused(name: str) -> None:
    with pytest.raises(MonitorError):
        observation_of(WHO, ROW | {name: [1]}, 10.0)
