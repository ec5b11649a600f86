"""Rounds go on, whatever machines, takers and we ourselves do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from itertools import count
from typing import Self

import pytest
from tests.support.rounds import machine
from tests.support.wait import PATIENCE_S

from ballonet.agent import rounds as module
from ballonet.agent.configuration import AgentSettings
from ballonet.agent.round import Round
from ballonet.agent.rounds import Pace, Rounds
from ballonet.vms.discovery import Found
from ballonet.vms.sighting import Sighting

SETTINGS = AgentSettings(period_s=0.01)


class FakeWatch:
    """Two machines, or a fault."""

    faults = 0
    problem = ""

    def __init__(self, match: object, exclude: object) -> None:
        assert (match, exclude) == (SETTINGS.match, SETTINGS.exclude)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def round(self, patience_s: float) -> list[Found]:
        assert patience_s < SETTINGS.period_s
        await asyncio.sleep(0)
        if FakeWatch.faults:
            FakeWatch.faults -= 1
            raise RuntimeError("a fault of ours")
        return [machine("web"), machine("db")]


class Calm:
    """Somebody who takes rounds as they come."""

    next_look_s = float("inf")
    is_acting = is_hurried = False


class Hurried:
    """Somebody who wants them soon, and by what guests say now."""

    next_look_s = 0.001
    is_acting = is_hurried = True


class FakeKeeper:
    """Hangs until it is cancelled; what it was told is kept."""

    told: list[str]
    hangs_at_the_end = False

    def __init__(self, interval_s: int) -> None:
        FakeKeeper.told = [f"interval {interval_s}"]

    async def keep(self, found: Iterable[Found]) -> None:
        self.told.append(f"keep {len(list(found))}")
        await asyncio.Event().wait()

    @property
    def asked(self) -> list[Sighting]:
        return [machine("web").sighting]

    async def ask_now(self, *, everybody: bool) -> None:
        assert everybody
        self.told.append("ask now")

    async def put_back(self) -> None:
        self.told.append("put back")
        if FakeKeeper.hangs_at_the_end:
            await asyncio.Event().wait()


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Watch", FakeWatch)
    monkeypatch.setattr(module, "PollKeeper", FakeKeeper)
    monkeypatch.setattr(FakeWatch, "faults", 0)
    monkeypatch.setattr(FakeKeeper, "hangs_at_the_end", False)


def rounds_of(
    takers: Callable[[Callable[[Round], None]], list[Callable[[Round], None]]],
    settings: AgentSettings = SETTINGS,
    pace: Pace | None = None,
) -> list[Round]:
    """The first five that are taken, and then the end."""
    taken: list[Round] = []

    async def watch() -> None:
        five = asyncio.Event()

        def take(one: Round) -> None:
            taken.append(one)
            if len(taken) >= 5:
                five.set()

        made = Rounds(settings, takers(take), count(1), lambda *_: None, pace or Calm())
        await five.wait()
        await made.end()

    _run(watch())
    return taken


def _run(work: Awaitable[None]) -> None:
    asyncio.run(asyncio.wait_for(work, PATIENCE_S))


def test_a_guest_that_hangs_when_its_interval_is_changed_delays_no_round() -> None:
    taken = rounds_of(lambda take: [take])
    assert [one.number for one in taken[:5]] == [1, 2, 3, 4, 5]
    assert len(taken[0].found) == 2
    assert FakeKeeper.told == ["interval 2", "keep 2", "put back"]


def test_nobody_is_asked_where_that_is_not_wanted() -> None:
    rounds_of(lambda take: [take], AgentSettings(period_s=0.01, poll_interval_s=0))
    assert FakeKeeper.told == ["interval 0", "put back"]


def test_a_taker_that_fails_keeps_no_round_from_the_others_and_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fails(_: Round) -> None:
        raise ValueError("a taker's fault")

    assert len(rounds_of(lambda take: [fails, take])) >= 5
    assert sum("a taker's fault" in one for one in caplog.messages) == 1


def test_a_round_that_fails_is_not_the_last_and_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    FakeWatch.faults = 3
    assert rounds_of(lambda take: [take])[0].number == 1
    assert sum("a fault of ours" in one for one in caplog.messages) == 1


def test_an_end_is_bounded_also_where_putting_back_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_END_S", 0.01)
    monkeypatch.setattr(FakeKeeper, "hangs_at_the_end", True)
    rounds_of(lambda take: [take])
    assert FakeKeeper.told[-1] == "put back"


def test_whoever_is_hurried_gets_rounds_sooner_and_has_guests_asked_before_each() -> None:
    taken = rounds_of(lambda take: [take], pace=Hurried())
    assert {one.period_s for one in taken} == {0.001}
    assert FakeKeeper.told.count("ask now") >= 5
