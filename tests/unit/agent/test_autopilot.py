"""The autopilot in the agent, with rounds that nobody has seen and machines that are not there."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.wait import PATIENCE_S

from ballonet.agent.autopilot.asked_state import AskedState, Lease
from ballonet.agent.autopilot.autopilot import Autopilot
from ballonet.agent.autopilot.ledger import LEDGER_NAME, Ledger
from ballonet.agent.autopilot.metrics import ALL_ROWS, AutopilotMetrics
from ballonet.agent.autopilot.settings import AutopilotSettings
from ballonet.agent.autopilot.targets import Request, Targets
from ballonet.agent.autopilot.waits import HISTOGRAMS
from ballonet.agent.round import Round
from ballonet.autopilot.explanation import Reason, Verdict
from ballonet.autopilot.recording import replay_rounds
from ballonet.autopilot.vm_state import VmState
from ballonet.vms.discovery import Found
from ballonet.vms.observation import Aged, HostMemory, MachineId, Observation
from ballonet.vms.sighting import Sighting
from ballonet.vms.this_host import HostLook

MIB = 1 << 20
NOWHERE = "/nonexistent/qmp"
SETTINGS = AutopilotSettings(enable=True, budget="200M")


def found(name: str, *, used_mib: int = 30, why_not: str = "") -> Found:
    who = MachineId("qemu", name, f"qemu:{NOWHERE}")
    look = Observation(
        who,
        0.0,
        memory_bytes=256 * MIB,
        actual_bytes=256 * MIB,
        statistics={"avail": Aged((256 - used_mib) * MIB, 0.1)},
        host=HostMemory(100 * MIB),
        paused=False,
        stats_last_update_s=1,
    )
    return Found(Sighting(who, NOWHERE, why_not), look, why_not)


def a_round(number: int, *machines: Found) -> Round:
    host = HostLook(float(number), 8 << 30, 4 << 30, 0, 0, None, None)
    seen = tuple(
        replace(
            one,
            observation=replace(one.observation, at_s=float(number), stats_last_update_s=number),
        )
        for one in machines
    )
    return Round(number, float(number), 0.0, 0.1, 1.0, seen, host)


def run(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), PATIENCE_S))


def test_a_request_for_memory_that_does_not_arrive_is_given_up_and_decided_anew(
    tmp_path: Path,
) -> None:
    async def work() -> None:
        autopilot = Autopilot(SETTINGS, tmp_path)
        autopilot.take(a_round(1, found("web")))
        assert autopilot.tally.lowered
        while not autopilot.tally.undelivered:
            await asyncio.sleep(0)
        autopilot.take(a_round(2, found("web")))
        assert autopilot.newest is not None
        (verdict,) = autopilot.newest.verdicts
        assert verdict.from_bytes == 256 * MIB  # as if it had never been asked
        await autopilot.close()

    run(work)


def test_more_memory_is_offered_until_it_is_taken_or_something_else_is_decided() -> None:
    failed: list[str] = []

    async def work() -> None:
        targets = Targets(lambda request, _: failed.append(request.vm))
        sighting = found("web").sighting
        targets.ask(Request("qemu:web", sighting, 100 * MIB, 200 * MIB))
        for _ in range(100):
            await asyncio.sleep(0)
        assert targets.on_their_way == 1
        targets.forget("qemu:web")
        await targets.close()
        assert targets.on_their_way == 0

    run(work)
    assert not failed


def test_what_was_asked_of_it_outlives_it(tmp_path: Path) -> None:
    state = AskedState(tmp_path)
    state.change(paused=frozenset({"qemu:web"}), is_dry_run=True)
    assert AskedState(tmp_path).wishes == state.wishes
    state.change(paused=frozenset(), is_dry_run=False)
    assert not list(tmp_path.iterdir())


def test_what_was_reserved_is_kept_until_its_time_is_over(tmp_path: Path) -> None:
    state = AskedState(tmp_path)
    state.change(lease=Lease(5 * MIB, time.time() + 1000))
    assert state.wishes.lease_bytes == 5 * MIB
    state.change(lease=Lease(5 * MIB, time.time() - 1))
    assert state.wishes.lease_bytes == 0


@pytest.mark.parametrize("text", ["", "{", '{"paused": 3}', '{"unknown": 1}', "x" * (2 << 20)])
def test_a_file_that_is_none_of_ours_is_as_if_nothing_was_asked(text: str, tmp_path: Path) -> None:
    (tmp_path / "autopilot.asked").write_text(text)
    assert not AskedState(tmp_path).wishes.paused


def a_verdict(to_mib: int) -> Verdict:
    return Verdict("qemu:web", 1.0, 256 * MIB, to_mib * MIB, VmState.STEADY, Reason.SURPLUS)


def test_the_newest_decisions_are_at_hand_and_all_of_them_in_the_file(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    for size in range(10):
        ledger.note([a_verdict(size)])
    assert [one.to_bytes // MIB for one in ledger.last("qemu:web", 3)] == [7, 8, 9]
    assert len(ledger.last("qemu:web", 100)) == 10
    assert not ledger.last("qemu:other", 3)
    lines = (tmp_path / LEDGER_NAME).read_text().splitlines()
    assert [json.loads(one)["decision"]["to_bytes"] // MIB for one in lines] == list(range(10))


def test_a_file_that_is_full_makes_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ballonet.agent.autopilot.ledger._FILE_BYTES", 1000)
    ledger = Ledger(tmp_path)
    for size in range(20):
        ledger.note([a_verdict(size)])
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert len(sizes) == 2
    assert max(sizes) <= 1000


def test_a_file_that_cannot_be_written_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / LEDGER_NAME).mkdir()
    ledger = Ledger(tmp_path)
    ledger.note([a_verdict(1)])
    ledger.note([a_verdict(2)])
    assert [one.message for one in caplog.records] == [
        "decisions are not written down: Is a directory"
    ]
    assert len(ledger.last("qemu:web", 9)) == 2


def test_what_is_only_tried_is_said_and_written_down_once(tmp_path: Path) -> None:
    async def work() -> None:
        settings = AutopilotSettings(budget="200M", record_rounds=True)
        autopilot = Autopilot(settings, tmp_path)
        for number in range(1, 6):
            autopilot.take(a_round(number, found("web")))
            assert not autopilot.tally.lowered
        await autopilot.close()

    run(work)
    lines = (tmp_path / LEDGER_NAME).read_text().splitlines()
    assert sum('"decision"' in one for one in lines) == 1
    assert [one.at_s for one in replay_rounds(lines)] == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_one_that_cannot_be_reached_is_counted_and_asked_for_nothing(tmp_path: Path) -> None:
    async def work() -> None:
        autopilot = Autopilot(SETTINGS, tmp_path)
        for number in range(1, 4):
            autopilot.take(a_round(number, found("gone", why_not="nobody answers"), found("web")))
        assert autopilot.newest is not None
        states = {one.vm: one.state for one in autopilot.newest.verdicts}
        assert states["qemu:gone"] is VmState.LOST
        assert "qemu:gone" not in autopilot.newest.plan.targets
        await autopilot.close()

    run(work)


def test_every_metric_is_served_once_there_was_a_round(tmp_path: Path) -> None:
    async def work() -> None:
        autopilot = Autopilot(SETTINGS, tmp_path)
        metrics = AutopilotMetrics(autopilot)
        assert not list(metrics.collect())
        autopilot.take(a_round(1, found("web")))
        served = {sample.name for one in metrics.collect() for sample in one.samples}
        assert served >= {row.name for row in ALL_ROWS} | {f"{name}_count" for name in HISTOGRAMS}
        await autopilot.close()

    run(work)
