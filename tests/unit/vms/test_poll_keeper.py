"""Whose intervals are changed, and put back."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.support.rounds import machine

from ballonet.errors import MonitorError
from ballonet.vms import poll_keeper as module
from ballonet.vms.discovery import Found
from ballonet.vms.poll_keeper import PollKeeper
from ballonet.vms.sighting import Sighting

GONE_PID = 1 << 30  #: of no process


class Intervals:
    """What machines have, by name; those that refuse."""

    def __init__(self) -> None:
        self.of: dict[str, int] = {}
        self.refuse: set[str] = set()
        self.asked: list[str] = []

    @asynccontextmanager
    async def connected_to(self, sighting: Sighting) -> AsyncIterator[FakeMachine]:
        self.asked.append(sighting.who.name)
        if sighting.who.name in self.refuse:
            raise MonitorError("it is busy")
        yield FakeMachine(self, sighting.who.name)

    def found(self, name: str, *, pid: int = os.getpid()) -> Found:
        return machine(name, pid=pid, poll_interval_s=self.of.setdefault(name, 0))


class FakeMachine:
    def __init__(self, intervals: Intervals, name: str) -> None:
        self._intervals, self._name = intervals, name

    async def poll_interval(self) -> int:
        return self._intervals.of[self._name]

    async def set_poll_interval(self, seconds: int) -> None:
        self._intervals.of[self._name] = seconds


@pytest.fixture
def intervals(monkeypatch: pytest.MonkeyPatch) -> Intervals:
    made = Intervals()
    monkeypatch.setattr(module, "connected_to", made.connected_to)
    return made


def keep(keeper: PollKeeper, *found: Found) -> None:
    asyncio.run(keeper.keep(found))


def test_only_what_was_changed_and_is_still_so_is_put_back(intervals: Intervals) -> None:
    intervals.of = {"ours": 0, "theirs": 7, "like ours": 2, "changed": 0}
    keeper = PollKeeper(2)
    keep(keeper, *[intervals.found(name) for name in intervals.of])
    assert intervals.of == {"ours": 2, "theirs": 7, "like ours": 2, "changed": 2}
    intervals.of["changed"] = 9
    asyncio.run(keeper.put_back())
    assert intervals.of == {"ours": 0, "theirs": 7, "like ours": 2, "changed": 9}


def test_one_that_refuses_is_asked_again_after_a_while(
    intervals: Intervals, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 100.0
    monkeypatch.setattr("ballonet.vms.poll_keeper.time.monotonic", lambda: now_s)
    intervals.refuse = {"busy"}
    keeper = PollKeeper(2)
    for _ in range(3):
        keep(keeper, intervals.found("busy"))
    assert intervals.asked == ["busy"]
    now_s += 61
    intervals.refuse = set()
    keep(keeper, intervals.found("busy"))
    assert intervals.of == {"busy": 2}


def test_one_that_is_gone_is_not_put_back_and_one_that_is_out_of_sight_is(
    intervals: Intervals,
) -> None:
    keeper = PollKeeper(2)
    keep(keeper, intervals.found("gone", pid=GONE_PID), intervals.found("hidden"))
    intervals.asked.clear()
    keep(keeper)
    asyncio.run(keeper.put_back())
    assert (intervals.asked, intervals.of["hidden"]) == (["hidden"], 0)
