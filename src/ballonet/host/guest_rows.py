"""What a host's monitor tells of one guest: its row in a list, and its row in an observation.

Sizes are bytes, ages seconds; None: unknown, also of a guest whose worker does not answer.
"""

from __future__ import annotations

from typing import Final

from ballonet.balloon.clock import NS_PER_S
from ballonet.control.status import STATUS_ROWS, Status, told
from ballonet.host.directory import HostDirectory
from ballonet.host.guest_process import GuestProcess
from ballonet.units import pages_to_bytes
from ballonet.virtio.stats import STATS, UNSET

__all__ = ["listed", "observed"]

#: Beside what every balloon tells of itself; the last two are called as QEMU's properties are.
_OF_OBSERVATION: Final = ("age", "ram", "guest-stats-polling-interval", "guest-stats")
_UNKNOWN: Final[dict[str, object]] = dict.fromkeys(
    (*_OF_OBSERVATION, *(row.key for row in STATUS_ROWS))
)


def listed(
    directory: HostDirectory, process: GuestProcess, status: Status | None
) -> dict[str, object]:
    """Who it is, and how its balloon does."""
    settings, name = process.settings, process.settings.name
    shared = None if status is None else status.guest_bytes or None
    return {
        "name": name,
        "socket": str(directory.file(name, "sock")),
        "qmp": str(directory.file(name, "qmp")),
        "memory": settings.memory_bytes or shared,
        "connected": None if status is None else shared is not None,
        "target": None if status is None else pages_to_bytes(status.target_pages),
        "actual": None if status is None else pages_to_bytes(status.actual_pages),
        "stage": None if status is None else status.stage.name.lower().replace("_", "-"),
        "state": _state(process, status),
        "pid": process.pid,
    }


def observed(
    directory: HostDirectory, process: GuestProcess, status: Status | None, now_ns: int
) -> dict[str, object]:
    """Who it is, and everything that its balloon tells of one moment; `age`: how long ago."""
    settings = process.settings
    who: dict[str, object] = {
        "name": settings.name,
        "qmp": str(directory.file(settings.name, "qmp")),
        "pid": process.pid,
        "state": _state(process, status),
    }
    if status is None:
        return who | _UNKNOWN
    figures = {
        "age": max(0, now_ns - status.now_ns) / NS_PER_S,
        "ram": (settings.memory_bytes or status.guest_bytes) if status.guest_bytes else None,
        "guest-stats-polling-interval": status.poll_interval_s,
        "guest-stats": _guest_stats(status),
    }
    return who | figures | told(status)


def _guest_stats(status: Status) -> dict[str, object]:
    reading = status.stats
    values = {} if reading is None else reading.sample.values
    return {
        "stats": {row.qemu_key: _known(values.get(row.name)) for row in STATS},
        "last-update": None if reading is None else reading.received_wall_s,
    }


def _known(value: int | None) -> int | None:
    """A driver may send what means that it does not know."""
    return None if value == UNSET else value


def _state(process: GuestProcess, status: Status | None) -> str:
    if process.state == "running" and status is None:
        return "unresponsive"
    return process.state
