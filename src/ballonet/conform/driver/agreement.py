"""One script on a real kernel and on ours, and what both did, side by side.

Messages must be the same; memory counters the same, or near each other where the kernels keep
different things in it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from ballonet.conform.driver.features import EVERYTHING
from ballonet.conform.driver.guests import DriverRig, GuestUnderTest
from ballonet.errors import GuestError
from ballonet.guests.processes import PrivateDirectory
from ballonet.units import BALLOON_PAGE_BYTES
from ballonet.virtio.features import Feature
from ballonet.virtio.queues import QueueRole

__all__ = ["Comparison", "compare"]

_OFFERED: Final = EVERYTHING & ~(Feature.PAGE_REPORTING | Feature.PAGE_POISON)
_FILE_BYTES: Final = 80 << 20
_PROCESS_BYTES: Final = 100 << 20
_MIB: Final = 1 << 20
_SETTLE_S: Final = 0.3


@dataclass(frozen=True, slots=True)
class Fact:
    """One observation on one kernel; a number may be off by `tolerance`."""

    name: str
    value: str | int | bool
    tolerance: int = 0


@dataclass(frozen=True, slots=True)
class Comparison:
    """The same observation on two kernels."""

    name: str
    values: tuple[str | int | bool, str | int | bool]
    agrees: bool


def compare(one: DriverRig, other: DriverRig) -> Iterator[Comparison]:
    """Run the script on both. Raises: GuestError."""
    for step in (_resizing, _pressure, _compaction, _no_deflate_on_oom, _deflate_on_oom):
        for a, b in zip(step(one), step(other), strict=True):
            agrees = a.value == b.value
            if isinstance(a.value, int) and isinstance(b.value, int):
                agrees = abs(a.value - b.value) <= a.tolerance
            yield Comparison(a.name, (a.value, b.value), agrees)


def _resizing(rig: DriverRig) -> Iterator[Fact]:
    machine = rig.machine(_OFFERED)
    _reach(machine, 0)
    for verb, pages in (("inflate", 20_000), ("deflate", 5_000)):
        role = QueueRole.INFLATE if verb == "inflate" else QueueRole.DEFLATE
        watch = _Watch(machine)
        _reach(machine, pages)
        yield Fact(f"to {pages} pages: messages", watch.messages(role))
        yield Fact(f"to {pages} pages: writes of actual", watch.actual_writes())
        yield Fact(f"to {pages} pages: vmstat balloon_{verb}", watch.vmstat(f"balloon_{verb}"))
        yield Fact(f"to {pages} pages: MemTotal changes by, bytes", watch.meminfo("MemTotal"))
        yield Fact(
            f"to {pages} pages: MemFree changes by, MiB", watch.meminfo("MemFree") // _MIB, 2
        )
    _reach(machine, 0)


def _pressure(rig: DriverRig) -> Iterator[Fact]:
    """A balloon that pushes the page cache out."""
    machine = rig.machine(_OFFERED)
    with PrivateDirectory("ballonet-") as directory:
        path = directory / "file"
        with path.open("wb") as file:
            file.truncate(_FILE_BYTES)
        watch = _Watch(machine)
        machine.actions.read_file(machine.guest, path)
        yield Fact("a file is read: Cached grows by, MiB", watch.meminfo("Cached") // _MIB, 2)
        watch = _Watch(machine)
        pages = (machine.guest.meminfo()["MemFree"] + _FILE_BYTES // 2) // BALLOON_PAGE_BYTES
        _reach(machine, pages)
        yield Fact("balloon beyond free memory: it is reached", machine.actual_pages == pages)
        yield Fact(
            "balloon beyond free memory: Cached shrinks by, MiB",
            -watch.meminfo("Cached") // _MIB,
            16,
        )
        stolen = watch.vmstat("pgsteal_kswapd") + watch.vmstat("pgsteal_direct")
        yield Fact("balloon beyond free memory: pages are reclaimed", stolen > 0)
        yield Fact("balloon beyond free memory: vmstat oom_kill", watch.vmstat("oom_kill"))
        _reach(machine, 0)


def _compaction(rig: DriverRig) -> Iterator[Fact]:
    machine = rig.machine(_OFFERED)
    _reach(machine, 30_000)
    _reach(machine, 15_000)
    watch = _Watch(machine)
    machine.actions.compact(machine.guest)
    moves = watch.changes()
    in_turns = moves == [QueueRole.INFLATE, QueueRole.DEFLATE] * (len(moves) // 2)
    yield Fact("compaction: inflate and deflate in turns", in_turns)
    yield Fact(
        "compaction: each pair is one vmstat balloon_migrate",
        watch.vmstat("balloon_migrate") == len(moves) // 2,
    )
    yield Fact("compaction: writes of actual", watch.actual_writes())
    yield Fact("compaction: vmstat balloon_inflate", watch.vmstat("balloon_inflate"))
    _reach(machine, 0)


def _no_deflate_on_oom(rig: DriverRig) -> Iterator[Fact]:
    """Out of memory: somebody is killed."""
    yield from _out_of_memory(rig.machine(_OFFERED), "without DEFLATE_ON_OOM")


def _deflate_on_oom(rig: DriverRig) -> Iterator[Fact]:
    """Out of memory: the balloon gives way."""
    machine = rig.machine(_OFFERED | Feature.DEFLATE_ON_OOM)
    yield from _out_of_memory(machine, "with DEFLATE_ON_OOM")


def _out_of_memory(machine: GuestUnderTest, name: str) -> Iterator[Fact]:
    available = machine.guest.meminfo()["MemAvailable"]
    pages = (available - _PROCESS_BYTES // 2) // BALLOON_PAGE_BYTES
    watch = _Watch(machine)
    _reach(machine, pages)
    yield Fact(f"{name}: MemTotal changes with the balloon", watch.meminfo("MemTotal") != 0)
    watch = _Watch(machine)
    survived = machine.actions.overcommit(machine.guest, _PROCESS_BYTES)
    time.sleep(_SETTLE_S)
    yield Fact(f"{name}: the process survives", survived)
    yield Fact(f"{name}: somebody is killed", watch.vmstat("oom_kill") > 0)
    yield Fact(f"{name}: the balloon gives way", machine.actual_pages < pages)
    # A real kernel compacts by itself when memory is short, which moves pages of the balloon.
    taken = sum(watch.sizes(QueueRole.DEFLATE)) - watch.vmstat("balloon_migrate")
    yield Fact(f"{name}: pages are taken back, moved ones left out", taken > 0)
    _reach(machine, 0)


class _Watch:
    """What has changed since it was made."""

    def __init__(self, machine: GuestUnderTest) -> None:
        self._machine = machine
        self._messages = len(machine.device.record.messages)
        self._writes = len(machine.device.record.writes(4))
        self._meminfo, self._vmstat = machine.guest.meminfo(), machine.guest.vmstat()

    def sizes(self, role: QueueRole) -> list[int]:
        """Pages of each message."""
        return [len(one.pfns) for one in self._machine.device.record.of(role, self._messages)]

    def messages(self, role: QueueRole) -> str:
        """Sizes of messages in words: ``78 of 256, 1 of 32``."""
        runs = [(size, len(list(group))) for size, group in groupby(self.sizes(role))]
        return ", ".join(f"{count} of {size}" for size, count in runs)

    def changes(self) -> list[QueueRole]:
        """The queues of inflates and deflates, in order."""
        return [
            one.role
            for one in self._machine.device.record.messages[self._messages :]
            if one.role in (QueueRole.INFLATE, QueueRole.DEFLATE)
        ]

    def actual_writes(self) -> int:
        """How often `actual` was written."""
        return len(self._machine.device.record.writes(4)) - self._writes

    def meminfo(self, name: str) -> int:
        """Change of a value, in bytes."""
        return self._machine.guest.meminfo()[name] - self._meminfo[name]

    def vmstat(self, name: str) -> int:
        """Change of a counter."""
        return self._machine.guest.vmstat()[name] - self._vmstat[name]


def _reach(machine: GuestUnderTest, pages: int) -> None:
    if not machine.resize(pages):
        raise GuestError(f"the balloon stays at {machine.actual_pages} of {pages} pages")
    machine.settle()
