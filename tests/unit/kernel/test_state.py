"""A kernel that was written down goes on as it would have; what cannot be right is refused."""

from __future__ import annotations

import json
import mmap
from typing import Any

import numpy as np
import pytest
from tests.support.states import Change, forged, joined, parts, with_header

from ballonet.errors import SettingsError, StreamError, UsageError
from ballonet.kernel.kernel import Kernel, KernelSettings
from ballonet.kernel.physical import MemoryPiece, PhysicalMemory
from ballonet.kernel.state import restore_state, state_of
from ballonet.kernel.state_layout import PART
from ballonet.kernel.tasks import Job, Scheduler, Sleep
from ballonet.kernel.workloads import WORKLOADS, Programs

MIB = 1 << 20
PAGE = 4096
SECOND = 1_000_000_000


class Machine:
    """A kernel with programs, whose time is moved by hand."""

    def __init__(
        self, size: int = 32 * MIB, settings: KernelSettings | None = None, *, boots: bool = True
    ) -> None:
        self.memory = memoryview(mmap.mmap(-1, size))
        self.scheduler = Scheduler()
        pieces = [MemoryPiece(0, self.memory)]
        physical = PhysicalMemory(pieces, PAGE)
        chosen = settings or KernelSettings(3, swap_bytes=8 * MIB)
        self.kernel = Kernel(physical, self.scheduler, chosen, boots=boots)
        self.programs = Programs(self.kernel)

    def run(self, until_ns: int) -> None:
        """Every task at its time."""
        self.scheduler.run(self.scheduler.now_ns)
        while (due_ns := self.scheduler.deadline_ns) is not None and due_ns <= until_ns:
            self.scheduler.run(due_ns)
        self.scheduler.run(until_ns)

    def save(self) -> bytes:
        self.scheduler.freeze()
        self.run(self.scheduler.now_ns)
        raw = state_of(self.kernel, self.programs)
        self.scheduler.thaw()
        return raw

    def copy(self, raw: bytes) -> Machine:
        there = Machine(len(self.memory), self.kernel.settings, boots=False)
        there.memory[:] = self.memory
        restore_state(there.kernel, there.programs, raw)
        return there


@pytest.mark.parametrize("seconds", [0, 7, 35, 61, 300])
@pytest.mark.parametrize("name", WORKLOADS)
def test_a_copy_does_what_the_original_does(name: str, seconds: int) -> None:
    here = Machine(settings=KernelSettings(seconds, swap_bytes=8 * MIB, poison=0xAA))
    here.programs.start(name)
    here.run(seconds * SECOND)
    raw = here.save()
    there = here.copy(raw)
    assert there.save() == raw
    for machine in (here, there):
        machine.run((seconds + 120) * SECOND)
    assert there.kernel.meminfo() == here.kernel.meminfo()
    assert there.save() == here.save()


def test_a_program_in_the_middle_of_a_sweep_goes_on_there() -> None:
    here = Machine(64 * MIB)
    program = here.programs.start("batch")
    here.scheduler.run(0, steps_max=5)
    raw = here.save()
    assert program.workload.next_page > 0
    there = here.copy(raw)
    assert there.programs.running[0].workload == program.workload


def test_a_program_that_was_killed_is_started_again_there() -> None:
    here = Machine()
    program = here.programs.start("desktop")
    here.run(SECOND)
    here.kernel.end_process(program.process)
    there = here.copy(here.save())
    there.run(30 * SECOND)
    assert [one.name for one in there.kernel.processes] == ["desktop"]
    assert there.kernel.processes[0].areas


def test_what_was_written_is_still_there_and_what_is_lost_is_noticed() -> None:
    here = Machine(settings=KernelSettings(1, swap_bytes=8 * MIB))
    file, process = here.kernel.add_area("file", 500), here.kernel.start_process("process")
    heap = here.kernel.add_area("heap", 6000, process)
    for area, owner in ((file, None), (heap, process)):
        pages = np.arange(area.frames.size)
        here.scheduler.spawn(
            "touch", here.kernel.paging.touch(area, pages, write=True, process=owner)
        )
    here.run(SECOND)
    raw = here.save()
    there = here.copy(raw)
    copy = there.kernel.areas[heap.number]
    assert heap.swapped_pages == copy.swapped_pages > 0
    assert copy in there.kernel.processes[0].areas
    assert np.array_equal(there.kernel.areas[file.number].dirty, file.dirty)
    pages = np.arange(6000)
    there.scheduler.spawn("look", there.kernel.paging.touch(copy, pages, write=False))
    there.run(2 * SECOND)


def test_a_kernel_that_does_not_rest_is_not_written_down() -> None:
    here = Machine()

    def job() -> Job[None]:
        yield Sleep(SECOND)

    with pytest.raises(UsageError):
        state_of(here.kernel, here.programs)
    here.scheduler.spawn("busy", job())
    here.scheduler.run(0)
    here.scheduler.freeze()
    here.scheduler.run(1)
    with pytest.raises(UsageError, match="busy"):
        state_of(here.kernel, here.programs)


def test_a_kernel_that_has_booted_takes_no_state() -> None:
    here = Machine()
    with pytest.raises(UsageError):
        restore_state(here.kernel, here.programs, here.save())


@pytest.mark.parametrize(
    "there",
    [
        Machine(64 * MIB, boots=False),
        Machine(settings=KernelSettings(3, swap_bytes=4 * MIB), boots=False),
        Machine(settings=KernelSettings(3, swap_bytes=8 * MIB, poison=0), boots=False),
        Machine(settings=KernelSettings(3, swap_bytes=8 * MIB, marks=False), boots=False),
    ],
)
def test_another_machine_is_told_apart(there: Machine) -> None:
    with pytest.raises(SettingsError, match="machine of the saved guest"):
        restore_state(there.kernel, there.programs, Machine().save())


def used_machine() -> Machine:
    """With something in every array of its state."""
    machine = Machine()
    for name in ("web", "leak", "build"):
        machine.programs.start(name)
    process = machine.kernel.start_process("hog")
    hog = machine.kernel.add_area("hog", 3000, process)
    pages = np.arange(hog.frames.size)
    machine.scheduler.spawn("hog", machine.kernel.paging.touch(hog, pages, write=True))
    machine.run(40 * SECOND)
    buddy = machine.kernel.zones[0].buddy
    head, _ = next(one for order in range(11) for one in buddy.free_blocks(order))
    order = next(order for order in range(11) if buddy.has_free_block(head, order))
    buddy.take_exactly(head, order)
    buddy.give_block(head, order, reported=True)
    return machine


USED = used_machine()
RAW = USED.save()


def refused(raw: bytes) -> None:
    there = Machine(boots=False)
    with pytest.raises((StreamError, SettingsError)) as caught:
        restore_state(there.kernel, there.programs, raw)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700
    assert not there.kernel.managed_frames
    assert not there.kernel.areas
    assert not there.scheduler.can_go_on


def forge(change: Change) -> bytes:
    return forged(RAW, change)


def test_an_unchanged_state_is_taken() -> None:
    there = USED.copy(forge(lambda _, __: None))
    assert there.save() == RAW


def test_every_array_has_something_in_it() -> None:
    assert all(array.size for array in parts(RAW)[1].values())


@pytest.mark.parametrize("length", [0, 1, 19, 20, 100, len(RAW) // 2, len(RAW) - 1])
def test_a_state_that_is_cut_is_refused(length: int) -> None:
    refused(RAW[:length])


def test_a_state_with_more_behind_it_is_refused() -> None:
    refused(RAW + b"\0")
    refused(joined(*parts(RAW)) + b"\0")


@pytest.mark.parametrize("seed", range(40))
def test_a_bit_that_was_flipped_is_noticed(seed: int) -> None:
    raw = bytearray(RAW)
    at = int(np.random.default_rng(seed).integers(len(raw)))
    raw[at] ^= 1 << seed % 8
    refused(bytes(raw))


@pytest.mark.parametrize("seed", range(200))
def test_a_bit_that_was_flipped_on_purpose_does_nothing_unforeseen(seed: int) -> None:
    """With the right checksum: it is refused, or it is another guest that makes sense."""
    random = np.random.default_rng(seed)
    header, arrays = parts(RAW)
    name = list(arrays)[seed % len(arrays)]
    view = arrays[name].view(np.uint8)
    view[random.integers(view.size)] ^= 1 << random.integers(8)
    there = Machine(boots=False)
    try:
        restore_state(there.kernel, there.programs, joined(header, arrays))
    except (StreamError, SettingsError):
        return
    again = there.save()
    last = Machine(boots=False)
    restore_state(last.kernel, last.programs, again)
    assert last.save() == again


@pytest.mark.parametrize("name", PART.arrays)
def test_an_array_of_another_size_is_refused(name: str) -> None:
    def shorter(_: object, arrays: dict[str, Any]) -> None:
        arrays[name] = arrays[name][:-1]

    def longer(_: object, arrays: dict[str, Any]) -> None:
        arrays[name] = np.append(arrays[name], arrays[name][-1])

    if name != "reported":  # the host may know less than it does
        refused(forge(shorter))
    refused(forge(longer))


@pytest.mark.parametrize("name", PART.arrays)
@pytest.mark.parametrize("items", [1 << 63, 1 << 32, -1, 1.0, True, "1", None])
def test_a_wrong_number_of_items_is_refused(name: str, items: object) -> None:
    def change(header: dict[str, Any], _: object) -> None:
        header["arrays"][list(PART.arrays).index(name)][2] = items

    refused(forge(change))


@pytest.mark.parametrize("name", ["free_heads", "run_first", "run_frames", "area_frames"])
@pytest.mark.parametrize("value", [2, 3, 32 * MIB // PAGE, 0xFFFF_FFF0])
def test_a_frame_out_of_place_is_refused(name: str, value: int) -> None:
    def change(_: object, arrays: dict[str, Any]) -> None:
        chosen = np.flatnonzero(arrays[name] < 0xFFFF_FFFE)
        arrays[name][chosen[-1]] = value

    refused(forge(change))


def test_two_owners_of_a_frame_are_refused() -> None:
    def change(_: object, arrays: dict[str, Any]) -> None:
        pages = arrays["area_frames"]
        first, second = np.flatnonzero(pages < 0xFFFF_FFFE)[:2]
        pages[second] = pages[first]

    refused(forge(change))


@pytest.mark.parametrize("value", [-1, 1 << 62, 1 << 63, 1 << 200, 1.5, "1", None, True, [], {}])
@pytest.mark.parametrize("group", ["facts", "counters", "zones"])
def test_numbers_that_are_none_are_refused(group: str, value: object) -> None:
    numbers = parts(RAW)[0]["fields"][group]
    for name in numbers[0] if group == "zones" else numbers:
        if (name == "report_due_ns" and value is None) or (name[:6] == "wants_" and value is True):
            continue

        def change(header: dict[str, Any], _: object, name: str = name) -> None:
            found = header["fields"][group]
            (found[0] if group == "zones" else found)[name] = value

        refused(forge(change))


def test_facts_that_contradict_the_pages_are_refused() -> None:
    for name in ("next_area", "next_pid", "clock"):

        def change(header: dict[str, Any], _: object, name: str = name) -> None:
            header["fields"]["facts"][name] = 1

        refused(forge(change))
    for name in ("hidden_frames", "swap_used", "clock", "next_mark"):

        def add(header: dict[str, Any], _: object, name: str = name) -> None:
            header["fields"]["facts"][name] += 1 << 32

        refused(forge(add))


@pytest.mark.parametrize("field", ["machine", "facts", "counters", "random", "zones", "processes"])
@pytest.mark.parametrize("value", [None, 5, [], {}, [[]], [None], "x" * 3_000_000])
def test_fields_of_another_shape_are_refused(field: str, value: object) -> None:
    def change(header: dict[str, Any], _: object) -> None:
        header["fields"][field] = value

    refused(forge(change))


@pytest.mark.parametrize("row", [[], [1], ["web", 1, 0], ["none", 0, 0, {}], ["web", 0, 0, {}]])
@pytest.mark.parametrize("field", ["areas", "programs", "processes"])
def test_rows_of_another_shape_are_refused(field: str, row: list[object]) -> None:
    def change(header: dict[str, Any], _: object) -> None:
        header["fields"][field][0] = row

    refused(forge(change))


def test_two_programs_cannot_be_one_process() -> None:
    def change(header: dict[str, Any], _: object) -> None:
        rows = header["fields"]["programs"]
        rows[1][1] = rows[0][1]

    refused(forge(change))


@pytest.mark.parametrize("random", [[1, 2, 0, 0], [1 << 128, 1, 0, 0], [1, 1, 2, 0], [0, 1, 0]])
def test_a_random_generator_that_is_none_is_refused(random: list[int]) -> None:
    def change(header: dict[str, Any], _: object) -> None:
        header["fields"]["random"] = random

    refused(forge(change))


def test_a_header_that_is_none_is_refused() -> None:
    _, arrays = parts(RAW)
    fields: dict[str, object] = {"part": "kernel", "fields": {}}
    headers: list[object] = [None, [], {}, {"part": "driver"}, {"part": "kernel"}, fields]
    for header in headers:
        refused(joined(header, arrays))
    for text in (b"", b"{", b"[" * 100_000, b"9" * 10_000, b"\xff"):
        refused(with_header(text))
    refused(with_header(json.dumps(parts(RAW)[0]).encode(), version=2))
    refused(b"ballooon" + RAW[8:])
