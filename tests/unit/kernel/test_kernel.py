"""The kernel: what processes and files may have, and what happens when there is no more."""

from __future__ import annotations

import mmap

import numpy as np
import pytest

from ballonet.errors import GuestPanicError
from ballonet.kernel.areas import Area
from ballonet.kernel.frames import Use
from ballonet.kernel.kernel import Effort, Kernel, KernelSettings, ProcessKilled
from ballonet.kernel.physical import MemoryPiece, PhysicalMemory
from ballonet.kernel.tasks import Job, Scheduler
from ballonet.kernel.workloads import WORKLOADS, Programs

MIB = 1 << 20
PAGE = 4096


class Machine:
    def __init__(self, size: int = 64 * MIB, settings: KernelSettings | None = None) -> None:
        self.memory = memoryview(mmap.mmap(-1, size))
        self.scheduler = Scheduler()
        pieces = [MemoryPiece(0, self.memory)]
        self.kernel = Kernel(
            PhysicalMemory(pieces, PAGE), self.scheduler, settings or KernelSettings()
        )

    def do(self, job: Job[object]) -> object:
        found: list[object] = []

        def top() -> Job[None]:
            found.append((yield from job))

        task = self.scheduler.spawn("test", top())
        while not task.done.is_set:
            self.scheduler.run(self.scheduler.now_ns)
            if not task.done.is_set:
                assert self.scheduler.deadline_ns is not None
                self.scheduler.run(self.scheduler.deadline_ns)
        return found[0] if found else None

    def use(self, area: Area, *, write: bool = True, process: object = None) -> None:
        pages = np.arange(area.frames.size)
        self.do(self.kernel.paging.touch(area, pages, write=write, process=process))  # type: ignore[arg-type]


def test_watermarks_are_those_of_linux() -> None:
    (zone,) = Machine(512 * MIB).kernel.zones
    # A real kernel of this size says: min 709, low 886, high 1063.
    assert (zone.min, zone.low, zone.high) == (709, 886, 1063)


def test_memory_above_four_gibibytes_has_a_zone_of_its_own() -> None:
    scheduler = Scheduler()
    low, high = (memoryview(mmap.mmap(-1, 64 * MIB)) for _ in range(2))
    pieces = [MemoryPiece(MIB, low), MemoryPiece(1 << 32, high)]
    kernel = Kernel(PhysicalMemory(pieces, PAGE), scheduler, KernelSettings())
    assert [zone.name for zone in kernel.zones] == ["DMA32", "Normal"]
    assert sum(zone.managed_frames for zone in kernel.zones) < 128 * MIB // PAGE


def test_a_file_is_dropped_for_a_process_and_read_again() -> None:
    machine = Machine()
    kernel = machine.kernel
    file = kernel.add_area("file", 8000)
    machine.use(file)
    process = kernel.start_process("hungry")
    heap = kernel.add_area("heap", 9000, process)
    machine.use(heap, process=process)
    assert file.present.size < 8000
    assert kernel.counters.pgsteal_kswapd + kernel.counters.pgsteal_direct > 0
    assert kernel.counters.pgpgout > 0  # it had been written
    kernel.end_process(process)
    machine.use(file, write=False)
    assert file.present.size == 8000


def test_a_process_is_swapped_out_and_finds_its_pages_again() -> None:
    machine = Machine(settings=KernelSettings(swap_bytes=64 * MIB))
    kernel = machine.kernel
    process = kernel.start_process("big")
    heap = kernel.add_area("heap", 18_000, process)
    machine.use(heap, process=process)
    assert kernel.counters.pswpout > 0
    assert kernel.meminfo()["SwapFree"] < 64 * MIB
    machine.use(heap, write=False, process=process)
    assert kernel.counters.pswpin > 0
    kernel.end_process(process)
    assert kernel.swap.used == 0


def test_without_swap_the_biggest_process_is_killed() -> None:
    machine = Machine()
    kernel = machine.kernel
    small, big = kernel.start_process("small"), kernel.start_process("big")
    machine.use(kernel.add_area("little", 1000, small), process=small)
    much = kernel.add_area("much", 20_000, big)
    killed: list[str] = []

    def job() -> Job[None]:
        try:
            yield from kernel.paging.touch(much, np.arange(20_000), write=True, process=big)
        except ProcessKilled as end:
            killed.append(str(end))

    machine.do(job())
    assert killed == ["big"]
    assert small.is_alive
    assert not big.is_alive
    assert kernel.counters.oom_kill == 1


def test_a_process_that_is_killed_in_the_middle_leaves_its_frames_to_others() -> None:
    machine = Machine(settings=KernelSettings(poison=0xAA))
    kernel = machine.kernel
    process = kernel.start_process("victim")
    heap = kernel.add_area("heap", 4000, process)
    pages = np.arange(4000)
    machine.use(heap, process=process)
    machine.scheduler.spawn("victim", kernel.paging.touch(heap, pages, write=True, process=process))
    machine.scheduler.run(0, steps_max=2)
    kernel.end_process(process)
    machine.scheduler.run(0)
    machine.use(kernel.add_area("file", int(kernel.free_frames * 0.9)))  # looks at their poison


def test_with_nobody_to_kill_the_kernel_gives_up_aloud() -> None:
    machine = Machine()
    kernel = machine.kernel

    def take_all() -> Job[None]:
        while (yield from kernel.allocate(256, Effort.ONCE, Use.KERNEL)).size:
            pass
        yield from kernel.allocate(1, Effort.ALWAYS, Use.KERNEL)

    with pytest.raises(GuestPanicError, match="no killable processes"):
        machine.do(take_all())


def test_a_page_that_changes_by_itself_is_noticed() -> None:
    machine = Machine()
    file = machine.kernel.add_area("file", 100)
    machine.use(file)
    frame = int(file.frames[50])
    machine.memory[frame * PAGE : (frame + 1) * PAGE] = bytes(PAGE)
    with pytest.raises(GuestPanicError, match="does not hold"):
        machine.use(file, write=False)


def test_lost_poison_is_noticed() -> None:
    machine = Machine(32 * MIB, KernelSettings(poison=0xAA))
    machine.memory[20 * MIB : 24 * MIB] = bytes(4 * MIB)
    file = machine.kernel.add_area("file", 4000)
    with pytest.raises(GuestPanicError, match="poison"):
        machine.use(file)


def test_compaction_makes_room_for_large_blocks_and_moves_contents_along() -> None:
    machine = Machine()
    kernel = machine.kernel
    files = [kernel.add_area(f"file {i}", 1) for i in range(9000)]
    for file in files:
        machine.use(file)
    for file in files[::2]:
        kernel.remove_area(file)
    before = kernel.zones[0].buddy.count_blocks(10)
    moved = machine.do(kernel.compact())
    assert isinstance(moved, int)
    assert moved > 1000
    assert kernel.zones[0].buddy.count_blocks(10) > before + 2
    for file in files[1::2]:
        machine.use(file, write=False)


def test_the_same_seed_gives_the_same_guest() -> None:
    def seconds(seed: int) -> dict[str, int]:
        machine = Machine(settings=KernelSettings(seed, swap_bytes=16 * MIB))
        programs = Programs(machine.kernel)
        for name in WORKLOADS:
            programs.start(name)
        for second in range(40):
            machine.scheduler.run(second * 1_000_000_000)
        return machine.kernel.meminfo() | {"faults": machine.kernel.counters.pgfault}

    assert seconds(7) == seconds(7)
    assert seconds(7) != seconds(8)


@pytest.mark.parametrize("name", WORKLOADS)
def test_every_workload_runs_for_a_quarter_of_an_hour(name: str) -> None:
    machine = Machine(settings=KernelSettings(swap_bytes=32 * MIB))
    Programs(machine.kernel).start(name)
    for minute in range(15):
        machine.scheduler.run(minute * 60_000_000_000)
        while machine.scheduler.deadline_ns is not None and (
            machine.scheduler.deadline_ns <= (minute + 1) * 60_000_000_000
        ):
            machine.scheduler.run(machine.scheduler.deadline_ns)
    assert machine.kernel.counters.pgfault > 1000
