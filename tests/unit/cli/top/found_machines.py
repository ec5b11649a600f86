"""Machines as a watch finds them."""

from __future__ import annotations

from collections.abc import Iterable

from ballonet.cli.top.rows import Row, Tracks
from ballonet.cli.top.screen import Scene
from ballonet.vms.discovery import Found
from ballonet.vms.observation import Aged, HostMemory, MachineId, Observation
from ballonet.vms.sighting import Sighting
from ballonet.vms.this_host import HostLook, Pressure

MIB = 1 << 20
GIB = 1 << 30
TAKEN = "its monitor serves one client at a time, and libvirtd, process 812 has it"
SCENE = Scene(
    "20:41:07",
    2.0,
    HostLook(0.0, 24 * GIB, 21 * GIB, GIB, GIB - 5 * MIB, Pressure(0.015, 0.0, 0.0), None),
)


def found(
    kind: str, name: str, why_not: str = "", silent_s: float | None = None, **known: object
) -> Found:
    """One, at /run/NAME unless it cannot be reached."""
    path = "" if why_not and silent_s is None else f"/run/{name}"
    who = MachineId(kind, name, path, 7)
    known = {"at_s": 0.0, **known}
    look = Observation(who, **known)  # type: ignore[arg-type]
    return Found(Sighting(who, path, why_not), look, why_not, silent_s)


def web(second: int = 0, actual_mib: int = 1024, **known: object) -> Found:
    """One that tells everything, and reads 5 pages and 20 KiB each second from its disks."""
    statistics = {
        "avail": Aged(300 * MIB, 1.0),
        "caches": Aged(120 * MIB, 1.0),
        "majflt": Aged(5 * second, 1.0),
        "swap_in": Aged(20 * second << 10, 1.0),
    }
    given: dict[str, object] = {
        "at_s": float(second),
        "memory_bytes": 4096 * MIB,
        "target_bytes": 1024 * MIB,
        "actual_bytes": actual_mib * MIB,
        "statistics": statistics,
        "stats_last_update_s": 1000 + second,
        "host": HostMemory(900 * MIB),
        "has_driver": True,
        "poll_interval_s": 2,
        **known,
    }
    return found("ballonet", "web", **given)  # type: ignore[arg-type]


def machines(second: int = 0) -> list[Found]:
    """Of every sort."""
    return [
        web(second),
        found(
            "cloud-hypervisor",
            "a-machine-with-a-very-long-name-of-its-own",
            memory_bytes=512 * MIB,
            actual_bytes=512 * MIB,
            paused=True,
            at_s=float(second),
        ),
        found(
            "qemu",
            "数据库",
            TAKEN,
            memory_bytes=2048 * MIB,
            host=HostMemory(1999 * MIB),
            at_s=float(second),
        ),
        found(
            "qemu",
            "db",
            "it keeps silent for 14 s",
            14.0,
            memory_bytes=2048 * MIB,
            actual_bytes=1000 * MIB,
            statistics={"avail": Aged(300 * MIB, 100.0)},
            at_s=0.0,
        ),
    ]


def rows_of(*rounds: Iterable[Found]) -> list[Row]:
    """After so many rounds."""
    tracks = Tracks()
    rows: list[Row] = []
    for one in rounds:
        rows = tracks.see(one)
    return rows
