"""Memory snapshots of a real kernel, compared page by page with the memory of the stopped guest."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.kernel.conftest import start
from tests.support.image_files import PAGE, read_image
from tests.support.leftovers import family
from tests.support.small_disk import small_disk
from tests.support.wait import PATIENCE_S, holds, wait_until

from ballonet.balloon.facts import Fact, HintRoundChanged, PagesHinted
from ballonet.errors import GuestError, SystemCallError
from ballonet.guests import squeeze
from ballonet.guests.ballooned import BalloonedGuest
from ballonet.guests.linux import LinuxGuest
from ballonet.guests.snapshot import Step, take_snapshot
from ballonet.guests.squeeze import squeezed
from ballonet.guests.stopping import is_stopped, stopped
from ballonet.virtio.features import BALLOON_FEATURES, Feature

BALLONET: Final = Path(sys.executable).with_name("ballonet")
MIB: Final = 1 << 20
MEMORY_BYTES: Final = 512 * MIB
#: Writes memory without end, and a program that never asks the kernel for anything.
WORK: Final = (
    "(while :; do dd if=/dev/urandom of=/tmp/work bs=64k count=160; done) >/dev/null 2>&1 &"
    " echo $! >/tmp/pids; (while :; do :; done) >/dev/null 2>&1 & echo $! >>/tmp/pids"
)
COMPLAINTS: Final = re.compile("BUG:|WARNING:|bad page|corrupt|oops|segfault|panic", re.IGNORECASE)


@pytest.fixture(scope="module")
def machine() -> Iterator[BalloonedGuest]:
    """One with something in its memory, most of which is free again."""
    with start(BALLOON_FEATURES & ~Feature.PAGE_REPORTING, MEMORY_BYTES) as running:
        running.guest.check("dd if=/dev/urandom of=/tmp/keep bs=1M count=100")
        running.guest.use_memory(90)
        yield running


@pytest.fixture
def busy(machine: BalloonedGuest) -> Iterator[LinuxGuest]:
    """The same guest, at work."""
    machine.guest.check(WORK)
    yield machine.guest
    machine.guest.run("kill -9 $(cat /tmp/pids)")


@pytest.fixture
def path() -> Iterator[Path]:
    """On a disk that is memory, so that a slow one is no part of the test."""
    folder = Path("/dev/shm") / f"ballonet-test-{os.getpid()}"
    folder.mkdir()
    yield folder / "image"
    shutil.rmtree(folder)


def open_memory(guest: LinuxGuest, flags: int) -> int:
    for link in Path(f"/proc/{guest.pid}/fd").iterdir():
        if str(link.readlink()).endswith(" (deleted)"):
            return os.open(link, flags)
    raise AssertionError("no memory file")


class Memory:
    """All of a guest's memory now; below `first` there is a hole."""

    def __init__(self, guest: LinuxGuest) -> None:
        fd = open_memory(guest, os.O_RDONLY)
        start = os.lseek(fd, 0, os.SEEK_DATA) // PAGE * PAGE
        self.bytes: Final = os.fstat(fd).st_size
        self.first: Final = start // PAGE
        self.pages: Final = np.zeros(((self.bytes - start) // PAGE, PAGE), np.uint8)
        view = self.pages.reshape(-1).data
        done = 0
        while done < len(view):
            done += os.preadv(fd, [view[done:]], start + done)
        os.close(fd)


def differing(image: Path, memory: Memory) -> list[int]:
    """Page by page, by another reader than ours."""
    found = read_image(image)
    assert found.memory_bytes == memory.bytes
    return [
        *(pfn for pfn in found.pages if pfn < memory.first),
        *(
            pfn
            for pfn, page in enumerate(memory.pages, memory.first)
            if found.page(pfn) != page.tobytes()
        ),
    ]


def test_a_snapshot_of_a_kernel_at_work_is_its_memory_at_the_stop_page_by_page(
    busy: LinuxGuest, path: Path
) -> None:
    seen: list[Memory] = []

    def look(step: Step, done_pages: int, pages: int) -> None:
        if step is Step.LAST and done_pages == pages:
            assert is_stopped(busy.pid)
            seen[:] = [Memory(busy)]

    result = take_snapshot(busy.pid, path, look)

    assert differing(path, seen[0]) == []
    assert result.passes[-1].changed_pages > 0  # it was at work
    assert result.address_bytes == seen[0].bytes
    busy.check("true")
    assert not COMPLAINTS.search(busy.check("dmesg"))


def test_while_a_kernel_is_stopped_nothing_of_it_writes(busy: LinuxGuest) -> None:
    with stopped(busy.pid):
        before = Memory(busy).pages
        assert holds(lambda: bool((Memory(busy).pages == before).all()), 0.5)
    busy.check("true")


def test_with_the_free_memory_in_the_balloon_an_image_is_hardly_more_than_what_is_used(
    machine: BalloonedGuest, path: Path
) -> None:
    guest = machine.guest
    checksum = guest.check("md5sum /tmp/keep")
    with squeezed(machine) as balloon_pages:
        result = take_snapshot(guest.pid, path)
        free_pages = guest.meminfo()["MemFree"] // PAGE
    used_pages = MEMORY_BYTES // PAGE - balloon_pages - free_pages
    assert result.pages <= used_pages * 1.05
    assert result.pages >= 100 * MIB // PAGE
    assert path.stat().st_blocks * 512 <= result.pages * PAGE * 1.01
    wait_until(lambda: machine.device.status().actual_pages == 0, PATIENCE_S, "no balloon again")
    assert guest.check("md5sum /tmp/keep") == checksum
    guest.use_memory(90)


def test_a_squeezed_guest_that_needs_memory_takes_it_back(machine: BalloonedGuest) -> None:
    guest = machine.guest
    with squeezed(machine):
        guest.check("dd if=/dev/urandom of=/tmp/more bs=1M count=64 && rm /tmp/more")
    guest.use_memory(90)


def test_a_guest_whose_programs_take_memory_meanwhile_is_squeezed_all_the_same(
    machine: BalloonedGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if 12 MiB of what it said to be free were not any more."""
    wait_until(lambda: machine.device.status().actual_pages == 0, PATIENCE_S, "still a balloon")
    told = machine.guest.meminfo()
    for name in ("MemFree", "MemAvailable"):
        told[name] += 12 * MIB
    monkeypatch.setattr(squeeze, "_STALLED_AFTER_S", 3.0)
    with monkeypatch.context() as patch:
        patch.setattr(machine.guest, "meminfo", lambda: told)
        with squeezed(machine) as balloon_pages:
            asked_pages = (min(told["MemFree"], told["MemAvailable"]) - 2 * MIB) // PAGE
            assert 0.9 * asked_pages - 1 <= balloon_pages < asked_pages
            assert machine.device.status().target_pages == balloon_pages
    machine.guest.use_memory(50)


def test_a_change_that_was_under_way_goes_on_after_squeezing(
    machine: BalloonedGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, meminfo = machine.device, machine.guest.meminfo
    given_pages = 32 * MIB // PAGE
    device.set_target(given_pages)
    wait_until(lambda: device.status().actual_pages == given_pages, PATIENCE_S, "no balloon")
    with ExitStack() as still:
        still.enter_context(stopped(machine.guest.pid))
        device.set_target(0)

        def goes_on() -> dict[str, int]:
            still.close()
            return meminfo()

        monkeypatch.setattr(machine.guest, "meminfo", goes_on)
        with squeezed(machine):
            pass
    assert device.status().target_pages == 0
    wait_until(lambda: device.status().actual_pages == 0, PATIENCE_S, "still a balloon")


def test_a_guest_that_could_not_take_memory_back_is_not_squeezed() -> None:
    with (
        start(memory_bytes=128 * MIB) as machine,
        pytest.raises(GuestError, match="DEFLATE_ON_OOM"),
        squeezed(machine),
    ):
        pass


class Hints:
    """All pages that a round named, and where it is."""

    def __init__(self, pages: int) -> None:
        self.hinted = np.zeros(pages, np.bool_)
        self.began, self.ended = threading.Event(), threading.Event()

    def observe(self, fact: Fact) -> None:
        match fact:
            case HintRoundChanged("START"):
                self.began.set()
            case HintRoundChanged() if self.began.is_set():
                self.ended.set()
            case PagesHinted(_, runs):
                firsts, counts = runs.first_pfns.tolist(), runs.pages.tolist()
                for first, count in zip(firsts, counts, strict=True):
                    self.hinted[first : first + count] = True


def test_pages_left_out_for_hints_can_be_overwritten_and_the_kernel_never_knows(
    machine: BalloonedGuest,
) -> None:
    """The kernel is the judge: what a snapshot with hints leaves out holds nothing it needs."""
    guest, device = machine.guest, machine.device
    checksum = guest.check("md5sum /tmp/keep /bin/busybox")
    free_pages = guest.meminfo()["MemFree"] // PAGE
    watch = Hints(Memory(guest).bytes // PAGE)
    device.subscribe(watch.observe)
    try:
        device.hints.begin(PATIENCE_S)
        assert watch.ended.wait(PATIENCE_S)
        device.hints.stop(PATIENCE_S).result(PATIENCE_S)
        copy = Memory(guest)
        hinted = watch.hinted[copy.first :]
        with stopped(guest.pid):
            changed = (Memory(guest).pages != copy.pages).any(axis=1)
            left_out = hinted & ~changed
            overwrite(guest, copy.first + np.flatnonzero(left_out))
            now = Memory(guest).pages
            assert (now[left_out] == 0xA5).all()
            others = ~left_out & ~changed
            assert (now[others] == copy.pages[others]).all()
        guest.check("true")
    finally:
        device.hints.finish()
        device.unsubscribe(watch.observe)
    assert np.count_nonzero(left_out) >= np.count_nonzero(hinted) * 9 // 10
    assert np.count_nonzero(left_out) >= 100 * MIB // PAGE
    assert guest.check("md5sum /tmp/keep /bin/busybox") == checksum
    wait_until(lambda: guest.meminfo()["MemFree"] // PAGE >= free_pages * 9 // 10, 60, "free again")
    guest.use_memory(90)
    assert guest.check("md5sum /tmp/keep /bin/busybox") == checksum
    assert not COMPLAINTS.search(guest.check("dmesg"))


def overwrite(guest: LinuxGuest, pfns: NDArray[np.int64]) -> None:
    fd = open_memory(guest, os.O_RDWR)
    for pfn in pfns.tolist():
        os.pwrite(fd, b"\xa5" * PAGE, pfn * PAGE)
    os.close(fd)


def test_the_guest_goes_on_when_the_disk_is_full(machine: BalloonedGuest, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "4M") as disk:
        with pytest.raises(SystemCallError, match="No space left on device"):
            take_snapshot(machine.guest.pid, disk.path / "image")
        assert not list(disk.path.iterdir())
    machine.guest.check("true")


def test_the_guest_goes_on_after_an_error_while_it_stood_still(
    machine: BalloonedGuest, path: Path
) -> None:
    def fail(step: Step, _: int, __: int) -> None:
        if step is Step.LAST:
            assert is_stopped(machine.guest.pid)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        take_snapshot(machine.guest.pid, path, fail)
    machine.guest.check("true")
    assert not list(path.parent.iterdir())


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([BALLONET, *arguments], capture_output=True, text=True, check=False)


def test_the_verbs_agree_on_a_guest_that_somebody_has_stopped(
    machine: BalloonedGuest, path: Path
) -> None:
    pid = str(machine.guest.pid)
    os.kill(machine.guest.pid, signal.SIGSTOP)
    try:
        done = run("snapshot", pid, path, "--json")
        assert done.returncode == 0, done.stderr
        figures = json.loads(done.stdout)
        assert figures["guest_pid"] == machine.guest.pid
        assert figures["balloon_pages"] is None
        assert is_stopped(machine.guest.pid)  # as before
        assert run("image", "check", path).returncode == 0
        done = run("image", "diff", path, pid, "--json")
        assert done.returncode == 0
        fields = json.loads(done.stdout)
        assert (fields["differing_pages"], fields["runs"], fields["is_stopped"]) == (0, [], True)
        assert run("image", "diff", path, pid).stdout == "0 pages differ (0 B, in 0 runs)\n"
    finally:
        os.kill(machine.guest.pid, signal.SIGCONT)
    machine.guest.check(
        "echo something else > /tmp/else; dd if=/dev/zero of=/tmp/more bs=1M count=9"
    )
    done = run("image", "diff", path, pid)
    assert done.returncode == 1
    assert "the guest runs and goes on writing" in done.stdout
    machine.guest.check("rm /tmp/else /tmp/more")


def children_of(pid: int) -> list[int]:
    """Of a guest that works: some end while they are looked at."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):
            if entry.name.isdigit() and f"\nPPid:\t{pid}\n" in (entry / "status").read_text():
                found.append(int(entry.name))
    return found


def test_a_process_inside_a_guest_is_refused_and_not_stopped(busy: LinuxGuest, path: Path) -> None:
    refused = 0
    for child in children_of(busy.pid):
        done = run("snapshot", str(child), path)
        text = f"process {child} belongs to the guest of process {busy.pid}: name that"
        assert done.returncode == 1
        assert done.stderr in {f"ballonet: {text}\n", f"ballonet: there is no process {child}\n"}
        refused += text in done.stderr
    assert refused >= 3  # helpers of the kernel, and programs in the guest
    busy.check("true")
    assert not list(path.parent.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_the_guest_goes_on_when_a_snapshot_is_ended_while_it_stands_still(
    busy: LinuxGuest, path: Path, number: int
) -> None:
    with subprocess.Popen(
        [BALLONET, "snapshot", str(busy.pid), path],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        wait_until(lambda: is_stopped(busy.pid), PATIENCE_S, "it was never stopped")
        process.send_signal(number)
        process.wait(PATIENCE_S)
    wait_until(lambda: not is_stopped(busy.pid), PATIENCE_S, "it stays stopped")
    busy.check("true")
    left = {one.name for one in path.parent.iterdir()} - {"image"}  # it may have been in time
    assert left <= ({"image.partial"} if number == signal.SIGKILL else set())


def test_the_verb_starts_a_guest_of_its_own(path: Path) -> None:
    done = run("snapshot", path, "--squeeze", "--memory", "256M", "--json")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["balloon_pages"] > 10_000
    assert figures["pages"] < 256 * MIB // PAGE // 2
    assert run("image", "check", path).returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_verb_leaves_no_guest_behind(tmp_path: Path, number: int) -> None:
    command: list[str | Path] = [BALLONET, "snapshot", "--squeeze", tmp_path / "image"]
    with family(command, tmp_path) as running:
        wait_until(lambda: running.runs("linux"), PATIENCE_S, "no kernel was started")
        running.process.send_signal(number)
        running.assert_gone()
    assert running.process.returncode != 0
