"""A guest that goes on before its memory is there reads and writes as if it were.

Units: pages of 4 KiB.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.integration.memory_process import PAGE, WORDS, MemoryProcess
from tests.support.host_memory import HUGE_BYTES, UnavailableError, huge_pages
from tests.support.wait import PATIENCE_S, holds, wait_until
from tests.support.wire import is_readable

from ballonet.errors import MigrationError, SystemCallError
from ballonet.memory.discard import punch_hole
from ballonet.memory.runs import PageRuns, merge_pfns
from ballonet.migration import missing as module_under_test
from ballonet.migration import userfault
from ballonet.migration.arrival_journal import ArrivalJournal
from ballonet.migration.missing import MissingMemory, drop_stale_pages
from ballonet.migration.postcopy import MissingPages, Run, ServedPages
from ballonet.migration.userfault import Mode, Userfault

PAGES: Final = 2048
CHUNK: Final = 64
#: Within this a guest that is told to look does so.
AROUND_NS: Final = 1_000_000
Pages = NDArray[np.bool_]
Contents = NDArray[np.uint64]


class Move:
    """A guest at its destination, its memory at the source, a channel that may break."""

    def __init__(self, guest: MemoryProcess, seed: int = 1) -> None:
        self.guest = guest
        self.random = np.random.default_rng(seed)
        #: A third is missing, a third has arrived, and a third are holes.
        kinds = self.random.integers(0, 3, guest.pages)
        self.missing: Pages = kinds == 0
        self.source: Contents = self.random.integers(1, 1 << 62, (guest.pages, WORDS), np.uint64)
        self.source[kinds == 2] = 0
        for pfn in np.flatnonzero(kinds == 1).tolist():
            os.pwrite(guest.fd, self.source[pfn].tobytes(), pfn * PAGE)
        for pfn in np.flatnonzero(self.missing)[::2].tolist():  # came once, and changed since
            os.pwrite(guest.fd, b"stale", pfn * PAGE)
        drop_stale_pages(guest.fd, merge_pfns(np.flatnonzero(self.missing).astype(np.uint32)))
        self.served = ServedPages(self.missing)
        self.asked: deque[int] = deque()
        self.is_broken = False
        self.address = int(guest.ask("miss"))
        self.fd = guest.receive_fd()
        self.memory = self.receiver(MissingPages(self.missing))

    def receiver(
        self, pages: MissingPages, note: Callable[[Run], None] = lambda _: None
    ) -> MissingMemory:
        memory = MissingMemory(os.dup(self.fd), self.address, pages, self.ask, note)
        memory.start()
        return memory

    def ask(self, pfn: int) -> None:
        if self.is_broken:
            raise ConnectionError("the channel is broken")
        self.asked.append(pfn)

    def deliver(self, runs: PageRuns) -> None:
        self.memory.write(runs, memoryview(self.source[pfns_of(runs)].tobytes()))

    def deliver_page(self, pfn: int) -> None:
        self.deliver(PageRuns(np.array([pfn]), np.array([1])))

    def next_runs(self) -> PageRuns | None:
        while self.asked:
            self.served.want(self.asked.popleft())
        return self.served.take(int(self.random.integers(1, CHUNK)))

    def serve(self) -> None:
        """Send all there is, out of order and some of it twice."""
        waiting: list[PageRuns] = []
        while (runs := self.next_runs()) or waiting:
            waiting += [runs] if runs else []
            if not runs or self.random.random() < 0.7:
                index = int(self.random.integers(len(waiting)))
                self.deliver(waiting[index])
                if self.random.random() < 0.8:
                    waiting.pop(index)

    def recover(self) -> None:
        """A new channel."""
        self.is_broken = False
        self.served.resume(self.memory.received())
        self.memory.ask_again()

    def close(self) -> None:
        self.memory.close()
        os.close(self.fd)


def pfns_of(runs: PageRuns) -> NDArray[np.int64]:
    """Each page of some runs."""
    pairs = zip(runs.first_pfns.tolist(), runs.pages.tolist(), strict=True)
    return np.concatenate([np.arange(first, first + pages) for first, pages in pairs])


@pytest.fixture
def guest() -> Iterator[MemoryProcess]:
    with MemoryProcess(PAGES) as process:
        yield process


@pytest.fixture
def move(guest: MemoryProcess) -> Iterator[Move]:
    move = Move(guest)
    yield move
    move.close()


def wrong_pages(found: Contents, expected: Contents) -> list[int]:
    return np.flatnonzero((found != expected).any(axis=1)).tolist()


@pytest.mark.parametrize("seed", range(5))
def test_a_guest_that_reads_all_its_memory_at_once_finds_every_page_right(
    guest: MemoryProcess, seed: int
) -> None:
    move = Move(guest, seed)
    order = move.random.permutation(PAGES)
    guest.tell("read", order)
    move.serve()
    assert wrong_pages(guest.answer(), move.source[order]) == []
    move.memory.finish()
    assert wrong_pages(guest.contents(), move.source) == []
    move.close()


def test_what_the_guest_waits_for_is_asked_for_once_and_comes(move: Move) -> None:
    pfn = int(np.flatnonzero(move.missing)[100])
    move.guest.tell("read", np.array([pfn]))
    wait_until(lambda: move.asked, PATIENCE_S, "nothing is asked for")
    runs = move.next_runs()
    assert runs is not None
    assert pfns_of(runs).tolist() == [pfn]
    assert not move.guest.has_answered
    move.deliver_page(pfn)
    assert wrong_pages(move.guest.answer(), move.source[[pfn]]) == []
    assert not move.asked


def test_a_write_to_a_missing_page_keeps_the_rest_of_it(move: Move) -> None:
    pfn = int(np.flatnonzero(move.missing)[7])
    move.guest.tell("write", np.array([pfn]), 5)
    wait_until(lambda: move.asked, PATIENCE_S, "nothing is asked for")
    move.deliver_page(pfn)
    move.guest.answer()
    move.source[pfn, 5] = 5
    move.serve()
    assert wrong_pages(move.guest.contents(), move.source) == []


def test_what_arrives_again_does_not_undo_what_the_guest_has_written(move: Move) -> None:
    move.serve()
    pfns = np.flatnonzero(move.missing)
    move.guest.ask("write", pfns, 5)
    before = move.guest.contents().copy()
    for pfn in pfns.tolist():
        move.deliver_page(pfn)
    assert wrong_pages(move.guest.contents(), before) == []


def test_of_a_run_only_what_is_missing_gets_its_contents_and_those_are_its_own(move: Move) -> None:
    for pfn in np.flatnonzero(move.missing)[5:300:7].tolist():
        move.deliver_page(pfn)
    halves = np.array([0, PAGES // 2])
    move.deliver(PageRuns(halves, np.array([PAGES // 2, PAGES // 2])))
    assert move.memory.left_pages == 0
    assert wrong_pages(move.guest.contents(), move.source) == []


def test_a_page_that_turns_out_to_be_a_hole_reads_as_zeros_and_stays_one_where_nobody_looks(
    move: Move,
) -> None:
    waited, other = np.flatnonzero(move.missing)[[3, 4]].tolist()
    move.guest.tell("read", np.array([waited]))
    wait_until(lambda: move.asked, PATIENCE_S, "nothing is asked for")
    held = os.fstat(move.guest.fd).st_blocks
    move.memory.make_holes(PageRuns(np.array([waited, other]), np.array([1, 1])))
    assert not move.guest.answer().any()
    assert os.fstat(move.guest.fd).st_blocks == held + PAGE // 512
    assert not move.guest.ask("read", np.array([other])).any()


def test_a_broken_channel_costs_no_page_and_the_guest_waits(move: Move) -> None:
    order = move.random.permutation(PAGES)
    lost = [runs for _ in range(10) if (runs := move.next_runs())]
    for runs in lost[::2]:
        move.deliver(runs)
    move.is_broken = True
    move.guest.tell("read", order)
    assert holds(lambda: not move.guest.has_answered, 0.2)
    move.recover()
    move.serve()
    assert wrong_pages(move.guest.answer(), move.source[order]) == []
    move.memory.finish()


def test_a_guest_whose_pages_nobody_fetches_any_more_waits_instead_of_reading_zeros(
    move: Move,
) -> None:
    pfn = int(np.flatnonzero(move.missing)[9])
    move.guest.tell("read", np.array([pfn]))
    wait_until(lambda: move.asked, PATIENCE_S, "nothing is asked for")
    move.memory.close()
    assert holds(lambda: not move.guest.has_answered, 0.2)
    move.memory = move.receiver(MissingPages(move.missing))
    move.deliver_page(pfn)
    assert wrong_pages(move.guest.answer(), move.source[[pfn]]) == []


def test_what_has_arrived_is_noted_before_the_guest_can_write_to_it(move: Move) -> None:
    pfn = int(np.flatnonzero(move.missing)[9])
    noted: list[Run] = []

    def note(run: Run) -> None:
        assert holds(lambda: not move.guest.has_answered, 0.1)
        noted.append(run)

    move.memory.close()
    move.memory = move.receiver(MissingPages(move.missing), note)
    move.guest.tell("write", np.array([pfn]), 5)
    wait_until(lambda: move.asked, PATIENCE_S, "nothing is asked for")
    move.deliver_page(pfn)
    move.guest.answer()
    assert noted == [Run(pfn, 1)]
    hole = int(np.flatnonzero(move.missing)[10])
    move.memory.make_holes(PageRuns(np.array([hole]), np.array([1])))
    assert noted[1:] == [Run(hole, 1)]


class _KilledError(Exception):
    """Nothing more is done."""


def test_whoever_takes_over_knows_what_is_there_and_lets_it_be_written(move: Move) -> None:
    """The one before was killed between putting a page in its place and noting it."""
    pfn = int(np.flatnonzero(move.missing)[9])
    journal = ArrivalJournal(move.missing)

    def end(_: Run) -> None:
        raise _KilledError

    move.memory.close()
    move.memory = move.receiver(MissingPages(move.missing), end)
    with pytest.raises(_KilledError):
        move.deliver_page(pfn)
    move.guest.tell("write", np.array([pfn]), 5)
    assert holds(lambda: not move.guest.has_answered, 0.1)
    move.memory.close()
    missing = journal.missing(move.guest.fd)
    assert np.flatnonzero(move.missing & ~missing).tolist() == [pfn]
    move.memory = move.receiver(MissingPages(missing), journal.note)
    move.guest.answer()
    move.source[pfn, 5] = 5
    move.serve()
    assert wrong_pages(move.guest.contents(), move.source) == []


def test_a_page_that_came_and_was_given_back_does_not_come_again(move: Move) -> None:
    pfn = int(np.flatnonzero(move.missing)[9])
    journal = ArrivalJournal(move.missing)
    move.memory.close()
    move.memory = move.receiver(MissingPages(move.missing), journal.note)
    move.deliver_page(pfn)
    punch_hole(move.guest.fd, pfn * PAGE, PAGE)
    missing = journal.missing(move.guest.fd)
    assert not missing[pfn]
    move.memory.close()
    move.memory = move.receiver(MissingPages(missing), journal.note)
    move.deliver_page(pfn)
    assert not move.guest.ask("read", np.array([pfn])).any()


def test_a_fault_that_was_heard_by_somebody_who_is_gone_is_served(move: Move) -> None:
    hole = int(np.flatnonzero(~move.source.any(axis=1))[9])
    move.memory.close()
    move.guest.tell("read", np.array([hole]))
    wait_until(lambda: is_readable(move.fd, 0), PATIENCE_S, "the guest does not wait")
    assert Userfault(move.fd).read_faults() == [move.address + hole * PAGE]
    assert not is_readable(move.fd, 0)
    move.memory = move.receiver(MissingPages(move.missing))
    assert not move.guest.answer().any()


def test_whoever_comes_to_a_page_just_when_watching_ends_goes_on() -> None:
    """Linux wakes those who wait, and lets others wait for a moment after that."""
    pages, holes = 16384, 200  # so many that the moment is a long one
    random = np.random.default_rng(1)
    with MemoryProcess(pages) as guest:
        guest.ask("write", np.arange(holes, pages), 1)
        address = int(guest.ask("miss"))
        watched = Userfault(guest.receive_fd())
        for hole in range(holes):
            watched.register(address, guest.size, Mode.MISSING | Mode.WRITE_PROTECT)
            watched.protect(address, guest.size)
            guest.tell("read", np.array([hole]))
            begin_ns = time.monotonic_ns() + int(random.integers(AROUND_NS))
            while time.monotonic_ns() < begin_ns:
                pass
            watched.unregister(address, guest.size)
            assert not guest.answer().any()
        watched.close()


def test_whoever_still_waits_when_watching_has_ended_is_told_to_look_again(
    move: Move, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same, played: the kernel has not seen him, so he comes again."""
    hole = int(np.flatnonzero(~move.source.any(axis=1))[9])
    move.memory.close()
    watched = Userfault(move.fd)
    move.guest.tell("read", np.array([hole]))
    wait_until(lambda: is_readable(move.fd, 0), PATIENCE_S, "the guest does not wait")
    watched.read_faults()
    real = fcntl.ioctl
    with monkeypatch.context() as patch:
        patch.setattr(
            fcntl,
            "ioctl",
            lambda fd, request, argument: (
                0 if request == userfault._UFFDIO_UNREGISTER else real(fd, request, argument)
            ),
        )
        watched.unregister(move.address, move.guest.size)
    wait_until(lambda: is_readable(move.fd, 0), PATIENCE_S, "the guest does not look again")
    watched.unregister(move.address, move.guest.size)
    assert not move.guest.answer().any()


def test_all_must_be_there_before_the_end(move: Move) -> None:
    with pytest.raises(MigrationError, match="pages have not arrived"):
        move.memory.finish()
    move.serve()
    move.memory.finish()
    assert "um" not in move.guest.mapping()["VmFlags"].split()
    assert wrong_pages(move.guest.ask("read", np.arange(PAGES)), move.source) == []


def test_the_trap_another_mapping_finds_zeros_and_a_write_there_is_noticed(move: Move) -> None:
    pfn = int(np.flatnonzero(move.missing)[9])
    with mmap.mmap(move.guest.fd, move.guest.size) as devices:
        assert devices[pfn * PAGE : (pfn + 1) * PAGE] == bytes(PAGE)
    with pytest.raises(MigrationError, match="written before its contents had arrived"):
        move.deliver_page(pfn)


def test_a_hole_that_somebody_else_fills_while_the_guest_waits_at_it_keeps_that(
    move: Move,
) -> None:
    hole = int(np.flatnonzero(~move.source.any(axis=1))[9])
    move.memory.close()
    move.guest.tell("read", np.array([hole]))
    wait_until(lambda: is_readable(move.fd, 0), PATIENCE_S, "the guest does not wait")
    os.pwrite(move.guest.fd, b"device's", hole * PAGE)
    move.memory = move.receiver(MissingPages(move.missing))
    assert move.guest.answer()[0, 0] == int.from_bytes(b"device's", "little")


def test_a_hole_that_somebody_else_fills_just_before_us_lets_the_guest_go_on(
    move: Move, monkeypatch: pytest.MonkeyPatch
) -> None:
    hole = int(np.flatnonzero(~move.source.any(axis=1))[9])
    fill_with_zeros = Userfault.zero

    def zero_too_late(userfault: Userfault, address: int, length: int) -> None:
        os.pwrite(move.guest.fd, b"device's", hole * PAGE)
        fill_with_zeros(userfault, address, length)

    monkeypatch.setattr(Userfault, "zero", zero_too_late)
    move.guest.tell("read", np.array([hole]))
    wait_until(lambda: move.guest.has_answered, PATIENCE_S, "the guest waits for ever")
    assert move.guest.answer()[0, 0] == int.from_bytes(b"device's", "little")


def test_parts_of_a_transparent_huge_page_are_taken_out(thp_file: int) -> None:
    with MemoryProcess(16 * HUGE_BYTES // PAGE, thp_file) as huge:
        pfns = np.arange(huge.pages)
        huge.ask("write", pfns, 1)
        assert huge.mapping()["ShmemPmdMapped"] != "0 kB"
        drop_stale_pages(huge.fd, merge_pfns(pfns[3::7].astype(np.uint32)))
        assert np.flatnonzero(~huge.contents().any(axis=1)).tolist() == pfns[3::7].tolist()


@pytest.mark.parametrize("first", [4, 5])
def test_what_cannot_be_taken_out_is_noticed(monkeypatch: pytest.MonkeyPatch, first: int) -> None:
    monkeypatch.setattr(module_under_test, "punch_hole", lambda *_: None)
    fd = os.memfd_create("kept")
    try:
        os.ftruncate(fd, 16 * PAGE)
        os.pwrite(fd, b"x", 5 * PAGE)
        with pytest.raises(MigrationError, match="cannot be taken out"):
            drop_stale_pages(fd, PageRuns(np.array([1, first]), np.array([1, 6 - first])))
    finally:
        os.close(fd)


def test_a_guest_that_has_ended_is_told(move: Move) -> None:
    move.guest.kill()
    with pytest.raises(SystemCallError, match="No such process"):
        move.deliver_page(int(np.flatnonzero(move.missing)[0]))


def test_huge_pages_are_refused() -> None:
    with_huge = PageRuns(np.array([0]), np.array([1]))
    try:
        with huge_pages(1):
            fd = os.memfd_create("huge", os.MFD_HUGETLB)
            os.ftruncate(fd, HUGE_BYTES)
            with pytest.raises(MigrationError, match="pages of 4 KiB"):
                drop_stale_pages(fd, with_huge)
            os.close(fd)
    except UnavailableError as error:
        pytest.skip(str(error))
