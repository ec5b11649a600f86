"""How long until the host really has its memory back, over what the kernel needs for that.

The clock starts at the request, so the guest's own pace is inside. The floor is the same pages of
the same kind of guest, dropped by as few calls as they have runs, by nobody but this program.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ballonet.conform.driver.scripted_device import ScriptedControl
from ballonet.control.device_control import DeviceControl
from ballonet.device.balloon import BalloonSettings
from ballonet.errors import GuestError
from ballonet.guests.ballooned import BalloonedGuest
from ballonet.guests.linux import LinuxGuest, LinuxGuestSettings
from ballonet.memory.discard import (
    VECTOR_MAX,
    MemoryKind,
    discards_in_one_call,
    madvise_ranges,
    punch_hole,
)
from ballonet.memory.runs import PageRuns, merge_pfns
from ballonet.units import BALLOON_PAGE_BYTES
from ballonet.virtio.queues import QueueRole
from bench.device_process import DeviceProcess, Giver
from bench.inflate import MEMORY_BYTES, PAGES, touch_all
from bench.report import Ratio
from bench.yardstick import Yardstick

__all__ = ["measure"]

Int64s = NDArray[np.int64]

ROUNDS = 7
_SCATTERED_ROUNDS = 15  # each is short, and the kernel's part alone varies by half
_SCATTERED = 50_000
_TIMEOUT_S = 30.0
#: Of the pages given: the guest may take a few others meanwhile.
_SHARE = 0.97


class _RecordedGuest(BalloonedGuest):
    """A guest whose pages in the balloon are known; nothing is dropped."""

    def _make_control(self, sock: socket.socket) -> DeviceControl:
        return ScriptedControl(BalloonSettings(discards=False), sock)


def measure() -> Iterator[Ratio]:
    """Contiguous pages of a real guest, and scattered ones of a driver that only sends."""
    yield from _contiguous()
    yield _scattered()


def _contiguous() -> Iterator[Ratio]:
    guest = LinuxGuestSettings(MEMORY_BYTES)
    ours_s: list[float] = []
    floor_s: list[float] = []
    in_c_s: list[float] = []
    with (
        BalloonedGuest(guest, BalloonSettings()) as ours,
        _RecordedGuest(guest, BalloonSettings(discards=False)) as kept,
        Yardstick("defer", MEMORY_BYTES) as yardstick,
    ):
        for _ in range(ROUNDS):
            touch_all(ours)
            ours_s.append(_until_back(ours.guest, lambda: ours.device.set_target(PAGES)))
            ours.resize(0, stalled_after_s=20)
            floor_s.append(_floor(kept))
            yardstick.guest.use_memory(90)
            in_c_s.append(_until_back(yardstick.guest, lambda: yardstick.resize(PAGES)))
            yardstick.resize(0)
    yield Ratio(
        f"b. {PAGES} touched pages of a real guest back with the host, over a device in C",
        "from the request",
        "a device in C that defers as ours does",
        ours_s,
        in_c_s,
        goal=1.5,
    )
    yield Ratio(
        f"b. {PAGES} touched pages of a real guest back with the host",
        "from the request",
        "the kernel, the same pages in one call for each run",
        ours_s,
        floor_s,
    )


def _until_back(guest: LinuxGuest, ask: Callable[[], object]) -> float:
    with _memory_file(guest) as file:
        before = os.fstat(file.fileno()).st_blocks * 512
        wanted = before - int(PAGES * BALLOON_PAGE_BYTES * _SHARE)
        begun_s = time.monotonic()
        ask()
        while os.fstat(file.fileno()).st_blocks * 512 > wanted:
            if time.monotonic() > begun_s + _TIMEOUT_S:
                raise GuestError("the host does not get its memory back")
            time.sleep(0.002)
        return time.monotonic() - begun_s


def _floor(machine: _RecordedGuest) -> float:
    touch_all(machine)
    server = machine.device
    if not isinstance(server, ScriptedControl):
        raise GuestError("the device keeps no record")
    start = len(server.record.messages)
    machine.resize(PAGES, stalled_after_s=20)
    messages = server.record.of(QueueRole.INFLATE, start)
    pfns = np.concatenate([np.frombuffer(one.data, "<u4") for one in messages])
    runs = merge_pfns(pfns)
    with _memory_file(machine.guest) as file:
        seconds = _each(
            file.fileno(), runs.first_pfns * BALLOON_PAGE_BYTES, runs.pages * BALLOON_PAGE_BYTES
        )
    server.record.messages.clear()
    server.record.accesses.clear()
    machine.resize(0, stalled_after_s=20)
    return seconds


def _memory_file(guest: LinuxGuest):  # type: ignore[no-untyped-def]  # noqa: ANN202 - a file
    for link in Path(f"/proc/{guest.pid}/fd").iterdir():
        if str(link.readlink()).endswith(" (deleted)"):
            return link.open("r+b")
    raise GuestError("the guest has no memory file")


def _scattered() -> Ratio:
    ours_s: list[float] = []
    floor_s: list[float] = []
    with DeviceProcess() as device:
        random = np.random.default_rng(1)
        for _ in range(_SCATTERED_ROUNDS):
            with device.session() as session:
                pfns = np.sort(random.permutation(session.data_pages)[:_SCATTERED])
                session.fill()
                begun_s = time.monotonic()
                session.inflate(random.permutation(pfns))
                session.wait_until_back(_SCATTERED)
                ours_s.append(time.monotonic() - begun_s)
            with device.session() as session:
                session.fill()
                floor_s.append(_fastest(session, merge_pfns(pfns)))
    return Ratio(
        f"b. {_SCATTERED} scattered pages back with the host",
        "from the first message",
        "the fastest loop over the same runs",
        ours_s,
        floor_s,
        goal=1.2,
    )


def _fastest(session: Giver, runs: PageRuns) -> float:
    """Seconds of the fastest way we know to drop these runs."""
    offsets, lengths = runs.first_pfns * BALLOON_PAGE_BYTES, runs.pages * BALLOON_PAGE_BYTES
    if not discards_in_one_call():
        return _each(session.fd, offsets, lengths)
    addresses = np.frombuffer(session.session.memory.file.view, np.uint8).ctypes.data + offsets
    begun_s = time.monotonic()
    for at in range(0, addresses.size, VECTOR_MAX):
        part = slice(at, at + VECTOR_MAX)
        madvise_ranges(MemoryKind.SHARED_FILE, addresses[part], lengths[part])
    return time.monotonic() - begun_s


def _each(fd: int, offsets: Int64s, lengths: Int64s) -> float:
    """Seconds of a call for each run."""
    begun_s = time.monotonic()
    for offset, length in zip(offsets.tolist(), lengths.tolist(), strict=True):
        punch_hole(fd, offset, length)
    return time.monotonic() - begun_s
