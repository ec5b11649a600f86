"""A machine for the monitor, which remembers what it was told."""

from __future__ import annotations

from ballonet.qmp.version import NEWEST, QemuVersion

__all__ = ["FakeMachine"]


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

    def set_logical_bytes(self, size: int) -> None:
        self.logical_bytes = size

    def set_poll_interval(self, seconds: int) -> None:
        self.poll_interval_s = seconds

    def stop(self) -> None:
        self.running = False

    def cont(self) -> None:
        self.running = True

    def drain(self) -> None:
        self.told.append("drain")

    def quit(self) -> None:
        self.told.append("quit")

    async def info(self) -> dict[str, object]:
        return {"stage": "none"}
