"""What a guest writes is found, all of it and nothing else, by another process.

Units: pages of 4 KiB.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.integration.memory_process import FILE_NAME, PAGE, WORDS, MemoryProcess
from tests.support.host_memory import HUGE_BYTES, UnavailableError, huge_pages
from tests.support.programs import started
from tests.support.wait import PATIENCE_S, wait_until

from ballonet.errors import MigrationError, UsageError
from ballonet.memory.discard import punch_hole
from ballonet.memory.runs import PageRuns
from ballonet.migration import tracking as module_under_test
from ballonet.migration.tracking import WriteTracker
from ballonet.migration.userfault import Feature, Userfault

PAGES: Final = 8192
HUGE_PAGES: Final = HUGE_BYTES // PAGE
Pfns = NDArray[np.int64]

NOBODY: Final = 65534
#: As who may do nothing special: protects and reads its own memory, and asks for what it may not.
UNPRIVILEGED: Final = f"""
import ctypes, mmap, os
import numpy as np
from ballonet.errors import MigrationError
from ballonet.migration.tracking import GuestSideTracking, WriteTracker
from ballonet.migration.userfault import Feature, Userfault
if os.geteuid() == 0:
    os.setgroups([])
    os.setresuid({NOBODY}, {NOBODY}, {NOBODY})
    ctypes.CDLL(None).prctl(4, 1)  # PR_SET_DUMPABLE, as a process that was never root
fd = os.memfd_create("guest")
os.ftruncate(fd, 1 << 20)
memory = memoryview(mmap.mmap(fd, 1 << 20))
WHAT
"""
TRACKS: Final = """
guest = GuestSideTracking(memory)
list(guest.start())
tracker = WriteTracker(os.getpid(), guest.address, guest.size)
tracker.start()
memory[5 * 4096] = 1
print(tracker.take().first_pfns.tolist())
"""
MISSES: Final = """
try:
    Userfault.open(Feature.MISSING_SHMEM, user_mode_only=False)
except MigrationError as error:
    print(error)
"""
#: An engine that reads for ever, as fast as it can.
ENGINE: Final = """
import sys
from ballonet.migration.tracking import WriteTracker
tracker = WriteTracker(*map(int, sys.argv[1:]))
tracker.start()
while True:
    print(tracker.take().total_pages, flush=True)
"""


@pytest.fixture
def guest() -> Iterator[MemoryProcess]:
    with MemoryProcess(PAGES) as process:
        yield process


def track(guest: MemoryProcess) -> WriteTracker:
    """Its writes are seen from now on."""
    tracker = WriteTracker(guest.pid, guest.ask("track"), guest.size)
    tracker.start()
    return tracker


def pages_of(runs: PageRuns) -> list[int]:
    """Each page; the runs ascend and never touch."""
    ends = runs.first_pfns + runs.pages
    assert (runs.pages > 0).all()
    assert (runs.first_pfns[1:] > ends[:-1]).all()
    return [
        page
        for first, end in zip(runs.first_pfns.tolist(), ends.tolist(), strict=True)
        for page in range(first, end)
    ]


@pytest.mark.parametrize("runs_max", [7, 1 << 16], ids=["in many calls", "in one call"])
def test_the_set_found_is_the_set_written_at_every_density(
    guest: MemoryProcess, monkeypatch: pytest.MonkeyPatch, runs_max: int
) -> None:
    monkeypatch.setattr(module_under_test, "_RUNS_MAX", runs_max)
    random = np.random.default_rng()
    guest.ask("write", random.permutation(PAGES)[: PAGES // 2], 1)  # half of them never was there
    tracker = track(guest)
    pages_of(tracker.take())
    for turn, density in enumerate((0, 0.01, 0.1, 0.5, 1, 0, 0.5, 0.01)):
        pfns = np.flatnonzero(random.random(PAGES) < density)
        guest.ask("write", random.permutation(pfns), turn + 2)
        assert pages_of(tracker.take()) == pfns.tolist()
    assert not pages_of(tracker.take())


def test_every_other_page_makes_as_many_runs(guest: MemoryProcess) -> None:
    tracker = track(guest)
    guest.ask("write", np.arange(0, PAGES, 2), 1)
    runs = tracker.take()
    assert runs.first_pfns.tolist() == list(range(0, PAGES, 2))
    assert set(runs.pages.tolist()) == {1}


@pytest.mark.parametrize("runs_max", [50, 1 << 16], ids=["in many calls", "in one call"])
def test_no_write_falls_between_reading_and_protecting_again(
    guest: MemoryProcess, monkeypatch: pytest.MonkeyPatch, runs_max: int
) -> None:
    """Each page is written once in a round, so that no later write makes good for a lost one."""
    monkeypatch.setattr(module_under_test, "_RUNS_MAX", runs_max)
    tracker = track(guest)
    random = np.random.default_rng()
    readings = word = 0
    while readings < 200:  # in the midst of a round, with something found
        word += 1
        reported = np.zeros(PAGES, np.bool_)
        guest.tell("write_slowly", random.permutation(PAGES), word)
        while not guest.has_answered:
            runs = tracker.take()
            reported[pages_of(runs)] = True
            readings += bool(runs.total_pages)
        guest.answer()
        reported[pages_of(tracker.take())] = True
        assert np.flatnonzero(~reported).tolist() == []


def test_a_copy_made_of_what_is_reported_ends_as_the_memory_of_a_busy_writer(
    guest: MemoryProcess,
) -> None:
    tracker = track(guest)
    copy = guest.contents().copy()
    guest.tell("count", 3)
    readings = 0
    while readings < 100:  # that have found something
        readings += copy_reported(guest, tracker, copy)
    guest.tell("rest")
    guest.answer()
    guest.answer()
    copy_reported(guest, tracker, copy)
    assert np.flatnonzero((copy != guest.contents()).any(axis=1)).tolist() == []


def copy_reported(guest: MemoryProcess, tracker: WriteTracker, copy: NDArray[np.uint64]) -> bool:
    """What is written after a reading is in the next one, so each page may be read at any time.

    Whether anything was reported.
    """
    runs = tracker.take()
    for first, pages in zip(runs.first_pfns.tolist(), runs.pages.tolist(), strict=True):
        raw = os.pread(guest.fd, pages * PAGE, first * PAGE)
        copy[first : first + pages] = np.frombuffer(raw, np.uint64).reshape(-1, WORDS)
    return bool(runs.total_pages)


def test_a_hole_punched_into_a_clean_page_is_not_reported_and_a_later_write_is(
    guest: MemoryProcess,
) -> None:
    guest.ask("write", np.arange(PAGES), 1)
    tracker = track(guest)
    for first, pages in ((5, 1), (1000, 2000)):  # the latter are whole page tables
        punch_hole(guest.fd, first * PAGE, pages * PAGE)
        assert not pages_of(tracker.take())
        last = np.array([first + pages - 1])
        assert guest.ask("read", last).sum() == 0
        assert not pages_of(tracker.take())  # a look is no write, though it fills the hole
        guest.ask("write", last, 2)
        assert pages_of(tracker.take()) == last.tolist()


def test_a_page_written_and_then_punched_may_be_reported_and_its_next_write_is(
    guest: MemoryProcess,
) -> None:
    tracker = track(guest)
    guest.ask("write", np.array([5]), 1)
    punch_hole(guest.fd, 5 * PAGE, PAGE)
    assert set(pages_of(tracker.take())) <= {5}
    guest.ask("write", np.array([5]), 1)
    assert pages_of(tracker.take()) == [5]


def test_what_the_kernel_writes_for_the_guest_is_seen_even_if_it_changes_nothing(
    guest: MemoryProcess,
) -> None:
    guest.ask("write", np.arange(100), 0)
    tracker = track(guest)
    assert guest.ask("receive", 97, 5) == 5 * PAGE
    assert pages_of(tracker.take()) == [97, 98, 99, 100, 101]


def test_the_trap_writes_by_another_way_are_not_seen(guest: MemoryProcess) -> None:
    guest.ask("write", np.arange(PAGES), 1)
    tracker = track(guest)
    os.pwrite(guest.fd, b"by write", 5 * PAGE)
    with mmap.mmap(guest.fd, guest.size) as devices:
        devices[6 * PAGE] = 1
    assert not pages_of(tracker.take())


def test_huge_pages_of_hugetlb_are_reported_whole() -> None:
    try:
        with (
            huge_pages(8),
            MemoryProcess(8 * HUGE_PAGES, os.memfd_create(FILE_NAME, os.MFD_HUGETLB)) as guest,
        ):
            guest.ask("write", np.arange(0, 4 * HUGE_PAGES, 100), 1)
            tracker = track(guest)
            tracker.take()
            for huge in (2, 6):  # the latter was never there
                guest.ask("write", np.array([huge * HUGE_PAGES + 77]), 2)
                whole = range(huge * HUGE_PAGES, (huge + 1) * HUGE_PAGES)
                assert pages_of(tracker.take()) == list(whole)
                assert not pages_of(tracker.take())
            punch_hole(guest.fd, 0, HUGE_BYTES)
            guest.ask("write", np.array([7]), 3)
            assert pages_of(tracker.take()) == list(range(HUGE_PAGES))
    except UnavailableError as error:
        pytest.skip(str(error))


def test_transparent_huge_pages_are_reported_in_small_ones_even_where_they_are_split(
    thp_file: int,
) -> None:
    with MemoryProcess(16 * HUGE_PAGES, thp_file) as guest:
        guest.ask("write", np.arange(8 * HUGE_PAGES), 1)
        assert guest.mapping()["ShmemPmdMapped"] != "0 kB"
        tracker = track(guest)
        for first in (3 * HUGE_PAGES, 12 * HUGE_PAGES):  # the latter were never there
            pfns = first + np.array([7, 300])
            guest.ask("write", pfns, 2)
            punch_hole(guest.fd, (first + 8) * PAGE, PAGE)  # which splits the huge page
            assert pages_of(tracker.take()) == pfns.tolist()
            assert not pages_of(tracker.take())


def test_whoever_tracks_may_be_killed_and_the_guest_is_as_before_and_can_be_tracked_again(
    guest: MemoryProcess,
) -> None:
    guest.tell("track")
    arguments = [str(number) for number in (guest.pid, guest.answer(), guest.size)]
    guest.tell("count", 1)
    with started([sys.executable, "-c", ENGINE, *arguments], stdout=subprocess.PIPE) as engine:
        assert engine.stdout is not None
        for _ in range(50):
            assert engine.stdout.readline()
        engine.kill()
    guest.tell("untrack")
    assert guest.answer() > 0
    guest.answer()
    assert "uw" not in guest.mapping()["VmFlags"].split()
    assert protected_pages(guest) == 0
    tracker = track(guest)
    assert "uw" in guest.mapping()["VmFlags"].split()
    guest.ask("write", np.array([9, 10, 4000]), 5)
    assert pages_of(tracker.take()) == [9, 10, 4000]


def protected_pages(guest: MemoryProcess) -> int:
    """Pages of the guest's mapping whose next write would be noticed: bit 57 of its page map."""
    for line in Path(f"/proc/{guest.pid}/maps").read_text(encoding="utf-8").splitlines():
        if FILE_NAME in line:
            address = int(line.partition("-")[0], 16)
            with Path(f"/proc/{guest.pid}/pagemap").open("rb") as pagemap:
                pagemap.seek(address // PAGE * 8)
                entries = np.frombuffer(pagemap.read(guest.pages * 8), np.uint64)
            return int(np.count_nonzero(entries & np.uint64(1 << 57)))
    raise AssertionError("the guest has no memory")


def test_a_guest_that_lets_go_is_an_error_and_not_a_guest_that_writes_nothing(
    guest: MemoryProcess,
) -> None:
    tracker = track(guest)
    guest.ask("write", np.array([3]), 1)
    guest.ask("untrack")
    with pytest.raises(MigrationError, match="not watched for writes any more"):
        tracker.take()
    with pytest.raises(UsageError):
        tracker.take()


def test_a_guest_that_has_ended_is_an_error_and_not_a_guest_that_writes_nothing(
    guest: MemoryProcess,
) -> None:
    tracker = track(guest)
    guest.ask("write", np.array([3]), 1)
    guest.kill()
    with pytest.raises(MigrationError, match="the process has ended"):
        tracker.take()


def test_a_kernel_that_scans_what_is_not_there_any_more_is_not_believed(
    guest: MemoryProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it learned to refuse that, PAGEMAP_SCAN found nothing in a process that had ended."""
    tracker = track(guest)
    guest.kill()
    monkeypatch.setattr(fcntl, "ioctl", lambda *_: 0)
    with pytest.raises(MigrationError, match="the process has ended"):
        tracker.take()


def test_where_a_scan_that_came_to_its_end_says_it_stopped_is_not_believed(
    guest: MemoryProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some kernels name the place where they last emptied their own buffer."""
    tracker = track(guest)
    begin = tracker._address
    written = [(begin + pfn * PAGE, begin + (pfn + 1) * PAGE, 0) for pfn in (3, 10)]

    def scan(_: int, __: int, request: bytearray) -> int:
        words = list(struct.unpack("=12Q", request))
        start, end, vector = words[2], words[3], words[5]
        found = np.array([run for run in written if run[0] >= start], np.uint64)
        ctypes.memmove(vector, found.ctypes.data, found.nbytes)
        words[4] = written[0][1] if start == begin else end
        request[:] = struct.pack("=12Q", *words)
        return len(found)

    monkeypatch.setattr(fcntl, "ioctl", scan)
    assert pages_of(tracker.take()) == [3, 10]


def test_memory_that_is_not_watched_is_refused_at_the_start(guest: MemoryProcess) -> None:
    address = guest.ask("track")
    for wrong in (address - 16 * PAGE, address + 16 * PAGE):
        tracker = WriteTracker(guest.pid, wrong, guest.size)
        with pytest.raises(MigrationError, match="not watched for writes, or not all of it"):
            tracker.start()
    guest.ask("untrack")
    tracker = WriteTracker(guest.pid, address, guest.size)
    with pytest.raises(MigrationError, match="not watched for writes, or not all of it"):
        tracker.start()


def test_a_process_that_is_not_there_is_named() -> None:
    with MemoryProcess(1) as guest:
        guest.kill()
        wait_until(lambda: not Path(f"/proc/{guest.pid}").exists(), PATIENCE_S, "it is still there")
        tracker = WriteTracker(guest.pid, 0, PAGE)
        with pytest.raises(MigrationError, match=f"the memory of process {guest.pid} cannot be"):
            tracker.start()


def run_unprivileged(what: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", UNPRIVILEGED.replace("WHAT", what)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_tracking_needs_no_privilege() -> None:
    assert run_unprivileged(TRACKS) == "[5]"


def test_who_may_not_is_told_in_one_line_what_would_help() -> None:
    if Path("/proc/sys/vm/unprivileged_userfaultfd").read_text(encoding="ascii").strip() != "0":
        pytest.skip("everybody may on this machine")
    told = run_unprivileged(MISSES)
    assert "\n" not in told
    assert "vm.unprivileged_userfaultfd=1" in told
    assert "CAP_SYS_PTRACE" in told


def test_a_kernel_that_lacks_something_is_told_in_one_line() -> None:
    with pytest.raises(MigrationError, match="lacks one of WP_ASYNC") as refused:
        Userfault.open(Feature.WP_ASYNC | Feature(1 << 60), user_mode_only=True)
    assert "\n" not in str(refused.value)
