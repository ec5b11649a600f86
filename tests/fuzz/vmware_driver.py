"""VMware's driver with a host that answers what it likes, in a guest that has work to do.

The host drops no memory; so whatever it says, the guest must go on, keep every byte, do a bounded
amount of work, and have all of its memory when the driver has left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

import numpy as np
from tests.fuzz.script import Script
from tests.fuzz.setting import FindingError, RunInput

from ballonet.kernel.areas import Area
from ballonet.kernel.kernel import Kernel, KernelSettings
from ballonet.kernel.physical import MemoryPiece, PhysicalMemory
from ballonet.kernel.tasks import Job, Scheduler
from ballonet.vmware.calls import Answer, Call, Command, Status
from ballonet.vmware.driver import VmwareDriver, VmwareDriverSettings

MIB: Final = 1 << 20
SIZE: Final = 18 * MIB  #: of which the kernel leaves 6, and so two blocks
STEPS_MAX: Final = 60
#: After so many calls the host refuses all: single pages would make an input long.
CALLS_ANSWERED: Final = 1000
CALLS_MAX: Final = 3000
STATUSES: Final = (0, 0, 0, 0, 0, 0, *map(int, Status), 9, 31, 2**32, 2**64 - 1)
TARGETS: Final = (0, 1, 300, 511, 512, 513, 1200, 2500, 2**32 - 1, 2**64 - 1)


class VmwareDriverFuzz(NamedTuple):
    """A `FuzzSetting`."""

    shrinks: bool = True

    def __str__(self) -> str:
        return "vmware-driver"

    @contextmanager
    def ready(self) -> Iterator[RunInput]:
        memory = memoryview(bytearray(SIZE))

        def run(raw: bytes) -> frozenset[str]:
            machine = _Machine(memory, Script(raw), shrinks=self.shrinks)
            try:
                machine.run()
            except Exception as error:
                raise FindingError(f"{type(error).__name__}: {error}") from error
            return frozenset(machine.trace)

        yield run


class _Machine:
    """One guest, from its boot to the end of its driver."""

    def __init__(self, memory: memoryview, script: Script, *, shrinks: bool) -> None:
        self.trace: set[str] = set()
        self._memory, self._script = memory, script
        self._now_ns = 1_000_000_000
        self._scheduler = Scheduler(self._now_ns)
        physical = PhysicalMemory([MemoryPiece(0, memory)], 4096)
        swap = 2 * MIB * (script.byte() & 1)
        self._kernel = Kernel(physical, self._scheduler, KernelSettings(swap_bytes=swap))
        self._free_at_boot = self._kernel.free_frames
        self._driver = VmwareDriver(self._kernel, self._call, VmwareDriverSettings(shrinks=shrinks))
        self._area: Area | None = None
        self._calls = 0
        self._target = 0

    def run(self) -> None:
        """Everything the script says. Raises: whatever the guest should not."""
        self._driver.start()
        for _ in range(STEPS_MAX):
            self._go_on(0)
            self._check_account()
            if self._script.is_over:
                break
            _OPERATIONS[self._script.byte() % len(_OPERATIONS)](self)
        self._remove_area()
        self._scheduler.spawn("stop", self._driver.stop())
        self._go_on(100_000_000)
        assert self._driver.actual_pages == 0, "pages stay in the balloon"
        assert self._kernel.hidden_frames == 0, "pages stay hidden"
        assert self._kernel.free_frames == self._free_at_boot, "pages are missing"
        self.trace |= {f"failed {name}" for name in self._driver.calls.failed}
        self.trace |= {name for name, count in self._driver.stats.items() if count}

    # What happens in the guest.

    def wait(self) -> None:
        self._go_on(self._script.choose((1, 1, 2, 6)) * 1_000_000_000)

    def ring(self) -> None:
        self._driver.ring_doorbell()

    def touch(self) -> None:
        if self._area is None:
            self._area = self._kernel.add_area("file", self._script.byte() * 4 + 1)
        pages = np.arange(self._area.frames.size)
        write = bool(self._script.byte() & 1)
        self._scheduler.spawn("touch", self._kernel.paging.touch(self._area, pages, write=write))

    def forget(self) -> None:
        self._remove_area()

    def compact(self) -> None:
        self._scheduler.spawn("compact", self._kernel.compact())

    def shrink(self) -> None:
        self._scheduler.spawn("shrink", self._driver.shrink())

    def _remove_area(self) -> None:
        self._go_on(0)
        if self._area is not None:
            self._kernel.remove_area(self._area)
            self._area = None

    def _go_on(self, ns: int) -> None:
        """Everything that the guest can do now, and until so much later."""
        end_ns = self._now_ns + ns
        while True:
            assert not self._scheduler.run(self._now_ns, 100_000), "the guest does not rest"
            due_ns = self._scheduler.deadline_ns
            if due_ns is None or due_ns > end_ns:
                break
            self._now_ns = max(self._now_ns, due_ns)
        self._now_ns = end_ns

    def _check_account(self) -> None:
        driver, kernel = self._driver, self._kernel
        assert driver.actual_pages == kernel.hidden_frames >= 0, "another account"
        assert kernel.counters.oom_kill == 0, "something was killed"

    # What the host says.

    def _call(self, command: int, arg1: int, arg2: int) -> Job[Answer]:
        self._calls += 1
        assert self._calls < CALLS_MAX, "calls without end"
        delay = self._script.byte()
        for _ in range(delay & 3 if delay & 0x40 else 0):
            yield None
        return self._answer(Call(command, arg1, arg2))

    def _answer(self, call: Call) -> Answer:
        if self._calls > CALLS_ANSWERED:
            return Answer(Status.BUSY, 0)
        if call.command in (6, 7, 8, 9):
            assert 0 < call.arg2 <= 512, "a batch that is none"
            self._write_batch(call.arg1 << 12, call.arg2)
        mood = self._script.byte()
        status = self._script.choose(STATUSES) if mood < 0x20 else 0
        if mood & 0x1F == 3:
            self._target = self._script.choose(TARGETS)
        elif mood & 0x1F == 4:
            self._target = self._script.word()
        if call.command == Command.START and mood >= 0x20:
            granted = self._script.choose((0b111110, 0b001110, 0b000110, 0b10, 0, 2**64 - 1))
            return Answer(Status.SUCCESS_WITH_CAPABILITIES, granted)
        self.trace.add(f"{call.command}: {status if status in (0, 7) else 'refused'}")
        return Answer(status, self._target)

    def _write_batch(self, gpa: int, count: int) -> None:
        """Statuses, and now and then anything else."""
        page = np.frombuffer(self._memory[gpa : gpa + 4096], np.uint64)
        mood = self._script.byte()
        page[:count] &= np.uint64(2**64 - 4096)
        if mood & 1:
            page[self._script.byte() % count :: self._script.byte() % 16 + 1] |= np.uint64(
                mood >> 3
            )
        if mood & 6 == 6:
            page[:] ^= np.uint64(self._script.word() << 12 & (2**64 - 1))


_M = _Machine
_OPERATIONS: Final[tuple[Callable[[_Machine], None], ...]] = (
    *(_M.wait, _M.wait, _M.wait, _M.wait, _M.ring, _M.ring, _M.touch, _M.touch),
    *(_M.forget, _M.compact, _M.shrink),
)
