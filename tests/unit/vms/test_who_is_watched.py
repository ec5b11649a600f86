"""Which machines are watched, whatever finding them does."""

from __future__ import annotations

import asyncio

from tests.support.wait import PATIENCE_S

from ballonet.errors import MonitorError
from ballonet.vms.finding import Finding
from ballonet.vms.observation import MachineId
from ballonet.vms.sighting import Sighting

WEB, DB, OLD = (Sighting(MachineId(kind, name), name) for kind, name in (
    ("qemu", "web"), ("ballonet", "db"), ("qemu", "old"),
))  # fmt: skip


def run(work: object) -> None:
    asyncio.run(asyncio.wait_for(work, PATIENCE_S))  # type: ignore[arg-type]


def test_some_match_and_some_of_those_are_excluded() -> None:
    async def find_all() -> list[Sighting]:
        return [WEB, DB, OLD]

    async def watch() -> None:
        assert await Finding(["*"], [], find_all).find() == [WEB, DB, OLD]
        assert await Finding(["qemu:*", "db"], ["old"], find_all).find() == [WEB, DB]
        assert await Finding([], [], find_all).find() == []

    run(watch())


def test_a_failure_leaves_those_that_were_known_and_is_told_until_it_is_over() -> None:
    fails = False

    async def find_all() -> list[Sighting]:
        if fails:
            raise MonitorError("reading /proc takes more than 10 s")
        return [WEB]

    async def watch() -> None:
        nonlocal fails
        finding = Finding(["*"], [], find_all)
        await finding.find()
        fails = True
        assert (await finding.find(), finding.problem) == (
            [WEB], "reading /proc takes more than 10 s",
        )  # fmt: skip
        fails = False
        assert (await finding.find(), finding.problem) == ([WEB], "")

    run(watch())


def test_finding_that_hangs_holds_up_nobody_and_is_taken_when_it_is_done() -> None:
    goes_on = asyncio.Event()
    goes_on.set()
    found, asked = [WEB], 0

    async def find_all() -> list[Sighting]:
        nonlocal asked
        asked += 1
        await goes_on.wait()
        return found

    async def watch() -> None:
        nonlocal found
        finding = Finding(["*"], [], find_all)
        assert await finding.find() == [WEB]
        goes_on.clear()
        found = [WEB, DB]
        assert [await finding.find() for _ in range(2)] == [[WEB], [WEB]]
        assert asked == 2
        goes_on.set()
        assert await finding.find() == [WEB, DB]
        goes_on.clear()
        await finding.find()
        await finding.close()

    run(watch())
