"""A machine for the monitor, which remembers what it was told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from ballonet.qmp.hmp import run_line
from ballonet.qmp.machine import HvBalloonReports
from ballonet.qmp.version import NEWEST, QemuVersion

__all__ = ["FakeHints", "FakeMachine", "result_of", "type_line"]


class FakeHints:
    """Rounds that bring what they are told to."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    async def begin(self, lease_s: int) -> int:
        self.told.append(("begin", lease_s))
        return 7

    async def take(self, cmd_id: int, runs_max: int) -> dict[str, object]:
        self.told.append(("take", cmd_id, runs_max))
        return {"id": cmd_id}

    async def stop(self, lease_s: int) -> None:
        self.told.append(("stop", lease_s))

    async def finish(self) -> None:
        self.told.append(("finish",))


class FakeMachine:
    """A `Machine` whose guest obeys at once."""

    def __init__(
        self,
        ram_bytes: int | None = 512 << 20,
        *,
        name: str | None = None,
        version: QemuVersion = NEWEST,
    ) -> None:
        self.balloon_id, self.name, self.version = "balloon0", name, version
        self.ram_bytes = ram_bytes
        self.logical_bytes = ram_bytes or 0
        self.running = True
        self.stats: dict[str, int] = {}
        self.stats_last_update_s = 0
        self.poll_interval_s = 0
        self.told: list[str] = []
        self.hints = FakeHints()
        self.balloon_type = "virtio-balloon-pci"
        self.hv_balloon: HvBalloonReports | None = None

    async def set_logical_bytes(self, size: int) -> None:
        self.logical_bytes = size

    async def set_poll_interval(self, seconds: int) -> None:
        self.poll_interval_s = seconds

    async def stop(self) -> None:
        self.running = False

    async def cont(self) -> None:
        self.running = True

    async def expedite(self) -> None:
        self.told.append("drain")

    def quit(self) -> None:
        self.told.append("quit")

    async def info(self) -> dict[str, object]:
        return {"stage": "none"}


def result_of(result: object) -> object:
    """What a command comes to, at once or after a while."""
    if not isinstance(result, Awaitable):
        return result

    async def wait() -> object:
        return await result

    return asyncio.run(wait())


def type_line(machine: FakeMachine, line: str) -> str:
    """What is printed for a line of HMP."""
    return str(result_of(run_line(machine, line)))
