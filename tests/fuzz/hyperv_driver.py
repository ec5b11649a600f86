"""Hyper-V's driver with a host that says what it likes, on a guest whose every byte is watched.

The host really empties what it was given, until it gives it back.  So a page that the guest uses
while it is in the balloon is found, and so is one that it gave away twice, or was talked into
using.
"""

from __future__ import annotations

import json
import mmap
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

import numpy as np
from tests.fuzz.script import Script
from tests.fuzz.setting import FindingError, RunInput
from tests.support.clock import FakeClock
from tests.support.hyperv_guest import message
from tests.support.hyperv_host import (
    balloon_request,
    capabilities_response,
    hot_add_request,
    info,
    unballoon_request,
    version_response,
)
from tests.support.hyperv_wire import Wire

from ballonet.hyperv.driver import HypervDriver
from ballonet.hyperv.settings import HypervDriverSettings
from ballonet.kernel.frames import Use
from ballonet.kernel.kernel import Kernel, KernelSettings
from ballonet.kernel.physical import MemoryPiece, PhysicalMemory
from ballonet.kernel.tasks import Job, Scheduler, Task
from ballonet.memory.regions import RegionTable

#: With so little memory the floor leaves a little more than a block for the balloon.
MEMORY_BYTES: Final = 38 << 20
PAGES: Final = MEMORY_BYTES // 4096
FLOOR_PAGES: Final = 8 << 20 >> 12  #: what the smallest guest keeps
FILE_PAGES: Final = 150
FIRSTS: Final = (0, 1, 512, 0x1000, PAGES - 1, PAGES, 2**32, 2**40 - 1)
COUNTS: Final = (0, 1, 2, 511, 512, 513, PAGES, 2**24 - 1)
WANTED: Final = (0, 1, 5, 100, 511, 512, 700, 1500, 2**32 - 1)
HEADS: Final = (0, 1, 2, 3, 9, 2**31, 2**32 - 1)
STEPS_MAX: Final = 100
SETTINGS: Final = HypervDriverSettings(pressure_report_delay=1)


class HypervDriverFuzz(NamedTuple):
    """A `FuzzSetting`."""

    def __str__(self) -> str:
        return "hyperv-driver"

    @contextmanager
    def ready(self) -> Iterator[RunInput]:
        memory = mmap.mmap(-1, MEMORY_BYTES)

        def run(raw: bytes) -> frozenset[str]:
            memory.madvise(mmap.MADV_DONTNEED)  # as if it was new
            return run_input(memoryview(memory), raw)

        yield run


def run_input(memory: memoryview, raw: bytes) -> frozenset[str]:
    """Run one input; returns what the driver did, as a signature. Raises: FindingError."""
    machine = Machine(memory, Script(raw))
    try:
        machine.run()
    except Exception as error:
        raise FindingError(f"{type(error).__name__}: {error}") from error
    figures = machine.driver.describe()
    grown = {name for name, value in figures.items() if isinstance(value, int) and value}
    return frozenset(machine.trace | grown)


class Machine:
    """One driver, from its start to its end."""

    def __init__(self, memory: memoryview, script: Script) -> None:
        self._script, self._clock = script, FakeClock()
        self._scheduler = Scheduler(self._clock.now_ns())
        physical = PhysicalMemory([MemoryPiece(0, memory)], 4096)
        self._kernel = Kernel(physical, self._scheduler, KernelSettings(swap_bytes=1 << 20))
        self._free_at_boot = self._kernel.free_frames
        self.driver = HypervDriver(self._kernel, self._send, SETTINGS)
        self._wire = Wire(RegionTable([]), PAGES)
        self._area = self._kernel.add_area("file", FILE_PAGES)
        self._room = 8
        self._sent: list[bytes] = []
        self._tasks: list[Task] = []
        self.trace: set[str] = set()

    def run(self) -> None:
        """Everything the script says. Raises: whatever the driver should not."""
        self.driver.start()
        if self._script.byte() & 7:
            for raw in (version_response(accepted=True), capabilities_response()):
                self._run()
                self.driver.received(raw)
        for _ in range(STEPS_MAX):
            if self._script.is_over:
                break
            _OPERATIONS[self._script.byte() % len(_OPERATIONS)](self)
            self._follow()
        self._settle()

    # What the host says.

    def answer(self) -> None:
        accepted = bool(self._script.byte() & 3)
        answers: tuple[Callable[..., bytes], ...] = (version_response, capabilities_response)
        self._hear(self._script.choose(answers)(accepted=accepted))

    def ask_for_pages(self) -> None:
        self._hear(balloon_request(self._script.choose(WANTED)))

    def give_back(self) -> None:
        """Some of what it has, and some of what it has not."""
        held = sorted(self._wire.given)
        pairs = []
        for _ in range(self._script.byte() % 6):
            at = self._script.word()
            first = held[at % len(held)] if held and at & 1 else self._script.choose(FIRSTS)
            pairs.append((first, self._script.choose(COUNTS)))
        self._hear(unballoon_request(pairs, more=bool(self._script.byte() & 1)))

    def give_all_back(self) -> None:
        self._hear(unballoon_request([(0, PAGES)], more=bool(self._script.byte() & 1)))

    def offer_memory(self) -> None:
        pair = (self._script.choose(FIRSTS), self._script.choose(COUNTS))
        self._hear(hot_add_request(*[pair] * (1 + self._script.byte() % 2)))

    def inform(self) -> None:
        self._hear(info(self._script.word()))

    def say_anything(self) -> None:
        self._hear(self._script.take(self._script.byte() % 40))

    def say_anything_of_a_type(self) -> None:
        head = struct.pack("<II", self._script.choose(HEADS), self._script.choose(HEADS))
        body = head + self._script.take(self._script.byte() % 40)
        raw = bytearray(message(self._script.byte() % 18, body))
        if self._script.byte() % 4 == 0:
            raw[2:4] = struct.pack("<H", self._script.word() & 0xFFFF)
        self._hear(bytes(raw))

    # What the guest does.

    def go_on(self) -> None:
        self._scheduler.run(self._clock.now_ns(), self._script.byte())

    def wait(self) -> None:
        self._clock.advance(self._script.choose((0.02, 0.02, 1.0, 6.0)))
        self._run()

    def resize_ring(self) -> None:
        self._room = self._script.byte() % 4

    def use_memory(self) -> None:
        pages = np.arange(self._script.byte() % FILE_PAGES, FILE_PAGES)
        write = bool(self._script.byte() & 1)
        self._spawn(self._kernel.paging.touch(self._area, pages, write=write))

    def compact(self) -> None:
        self._spawn(self._kernel.compact())

    def freeze(self) -> None:
        (self._scheduler.thaw if self._scheduler.is_freezing else self._scheduler.freeze)()

    def stop(self) -> None:
        if self._script.byte() % 4 == 0:
            self._spawn(self.driver.stop())

    # How it is watched.

    def _spawn(self, job: Job[object]) -> None:
        self._tasks = [task for task in self._tasks if not task.done.is_set]
        if len(self._tasks) < 4:
            self._tasks.append(self._scheduler.spawn("action", job))

    def _hear(self, raw: bytes) -> None:
        self._follow()
        if self.driver.state.value == "initialized":
            self._wire.host_said(raw if len(raw) >= 16 else bytes(16))
        self.driver.received(raw)

    def _run(self) -> None:
        assert not self._scheduler.run(self._clock.now_ns(), 100_000), "it does not come to rest"

    def _send(self, raw: bytes) -> bool:
        if len(self._sent) >= self._room:
            return False
        self._sent.append(raw)
        return True

    def _follow(self) -> None:
        """Take what was sent: the host has it now, and empties what it was given."""
        for raw in self._sent:
            kind, size = struct.unpack_from("<HH", raw)
            assert 8 <= len(raw) == size <= 4096
            self.trace.add(f"sent {kind}")
            if kind == 7:
                self._take(raw)
        self._sent.clear()
        given = len(self._wire.given)
        assert given <= self.driver.actual_pages == self._kernel.hidden_frames
        assert self._free_at_boot - self.driver.actual_pages >= FLOOR_PAGES, "below the floor"

    def _take(self, raw: bytes) -> None:
        before = len(self._wire.given)
        self._wire.host_heard(raw)
        (word,) = struct.unpack_from("<I", raw, 12)
        ranges = [
            (one & (1 << 40) - 1, one >> 40)
            for one in struct.unpack_from(f"<{word >> 1}Q", raw, 16)
        ]
        frames = np.array(
            [page for first, pages in ranges for page in range(first, first + pages)], np.int64
        )
        assert len(self._wire.given) == before + frames.size, "given twice, or no memory"
        assert (self._kernel.table.use[frames] == Use.BALLOON).all(), "still the guest's"
        self._kernel.memory.fill(frames, 0)

    def _settle(self) -> None:
        """Everything comes to its end, and nothing is missing."""
        self._scheduler.thaw()
        self._room = 1 << 20
        for _ in range(3):
            self._clock.advance(6)
            self._run()
        self._follow()
        self._spawn(self._kernel.paging.touch(self._area, np.arange(FILE_PAGES), write=False))
        self._run()
        self._kernel.remove_area(self._area)
        assert self._kernel.table.count(Use.HELD) == 0, "pages held for ever"
        balloon = set(self._kernel.table.used_as(Use.BALLOON).tolist())
        assert self._wire.given <= balloon
        assert len(balloon) == self.driver.actual_pages
        json.dumps(self.driver.describe())
        left = self.driver.actual_pages
        assert self._kernel.free_frames == self._free_at_boot - left, "pages leak"


_M = Machine
_OPERATIONS: Final[tuple[Callable[[Machine], None], ...]] = (
    *(_M.ask_for_pages, _M.ask_for_pages, _M.ask_for_pages, _M.give_back, _M.give_back),
    *(_M.give_back, _M.give_all_back, _M.answer, _M.offer_memory, _M.inform, _M.say_anything),
    *(_M.say_anything_of_a_type, _M.go_on, _M.go_on, _M.wait, _M.wait, _M.resize_ring),
    *(_M.use_memory, _M.use_memory, _M.compact, _M.freeze, _M.stop),
)
