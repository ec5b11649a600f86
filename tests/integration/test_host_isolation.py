"""What one guest of a host can do, and what the others notice of it."""

from __future__ import annotations

import mmap
import os
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

import pytest
from tests.integration.host_under_test import HostProcess, running
from tests.support.front_end import FrontEnd, TableRegion
from tests.support.guest_memory import FILE_NAME, MIB, PAGE_BYTES
from tests.support.qmp_client import QmpClient
from tests.support.scripts import start_qemu, start_uml
from tests.support.session import INFLATE, Session
from tests.support.small_disk import small_disk
from tests.support.wait import PATIENCE_S, wait_until
from tests.support.wire import PROTOCOL_CONFIG, PROTOCOL_REPLY_ACK, ClosedError

UVA = 0x7F00_0000_0000
AVAIL_AT, USED_AT, HOLE_AT = 4 * PAGE_BYTES, 8 * PAGE_BYTES, MIB // 2
TARGET_PAGES = 1000
ROUNDS = 300
VERSION_1 = 1 << 32
PROTOCOL_FEATURES = 1 << 30
#: One line that takes a reader long who looks at it as a pattern of strings.
WORST_LINE = b'["' + b"\\'" * 31_000 + b"\n"


class Neighbour:
    """The guest that nothing must happen to."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.longest_s = 0.0

    def use(self, rounds: int = ROUNDS) -> None:
        """Give a page and take it back, again and again; each is answered, or this fails."""
        first, _ = self._session.free_range()
        for _ in range(rounds):
            begun_s = time.monotonic()
            self._session.inflate([first])
            self._session.deflate([first])
            self.longest_s = max(self.longest_s, time.monotonic() - begun_s)


def set_target(host: HostProcess, name: str, session: Session) -> None:
    """Ask a guest for its pages, and wait until that would survive its device."""
    total = sum(region.size for region in session.ram.regions)
    with QmpClient(host.directory / f"{name}.qmp") as client:
        value = total - TARGET_PAGES * PAGE_BYTES
        assert client.negotiate().ask("balloon", value=value) == {"return": {}}
    state = host.directory / f"{name}.state"
    wait_until(lambda: str(TARGET_PAGES) in state.read_text(), 10, "the target is saved")


@contextmanager
def memory_with_a_hole(disk: Path) -> Iterator[int]:
    """A file that is a guest's memory: a ring with one message, which lies in a hole."""
    with (disk / "guest").open("w+b") as file:
        ring = bytearray(16 * PAGE_BYTES)
        struct.pack_into("<QIHH", ring, 0, HOLE_AT, 4, 0, 0)
        struct.pack_into("<HHH", ring, AVAIL_AT, 0, 1, 0)
        file.write(ring)
        file.flush()
        os.ftruncate(file.fileno(), MIB)
        yield file.fileno()


def die_by_sigbus(path: Path, memory_fd: int) -> None:
    """Give a device a message of which nobody can have the memory: the disk is full."""
    with FrontEnd.connect(path) as front_end, suppress(OSError, ClosedError):
        front_end.set_owner()
        front_end.get_features()
        front_end.get_protocol_features()
        front_end.set_protocol_features(PROTOCOL_REPLY_ACK | PROTOCOL_CONFIG)
        front_end.set_features(VERSION_1 | PROTOCOL_FEATURES)
        front_end.set_mem_table([TableRegion(0, MIB, UVA, 0)], [memory_fd], ack=True)
        front_end.set_vring_num(INFLATE, 64)
        front_end.set_vring_base(INFLATE, 0)
        front_end.set_vring_addr(INFLATE, (UVA, UVA + AVAIL_AT, UVA + USED_AT))
        front_end.set_vring_kick(INFLATE)
        front_end.set_vring_enable(INFLATE, 1)
        front_end.kick(INFLATE)
        front_end.wire.receive_raw(1)


def block_the_device(session: Session) -> None:
    """Make the device write to a descriptor that takes nothing, and is no longer non-blocking."""
    call_fd = session.front_end._calls[INFLATE].back_end_fd
    os.set_blocking(call_fd, True)
    os.eventfd_write(call_fd, (1 << 64) - 2)
    first, _ = session.free_range()
    session.offer(INFLATE, [session.write_pfns(INFLATE, [first])])


@contextmanager
def repeating(action: Callable[[], None]) -> Iterator[None]:
    """Do something again and again, on a thread, inside the block."""
    ended = Event()

    def repeat() -> None:
        while not ended.is_set():
            with suppress(OSError):
                action()

    thread = Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def talk_nonsense(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE_S)
        client.connect(str(path))
        client.sendall(WORST_LINE)


def test_a_guest_that_dies_blocks_or_is_busy_is_alone_with_it(tmp_path: Path) -> None:
    with (
        small_disk(tmp_path / "disk", "256k") as disk,
        running(disk.path / "host") as host,
        ExitStack() as stack,
        host.monitor() as events,
    ):
        paths = {name: host.add(name) for name in ("good", "dies", "blocks", "busy")}
        good = Neighbour(stack.enter_context(start_uml(paths["good"])))
        with start_uml(paths["dies"]) as session:
            set_target(host, "dies", session)
        memory_fd = stack.enter_context(memory_with_a_hole(disk.path))
        disk.fill()
        good.use()
        blocks = stack.enter_context(start_qemu(paths["blocks"]))
        block_the_device(blocks)
        good.use()
        with repeating(lambda: talk_nonsense(host.directory / "busy.qmp")):
            good.use()
            die_by_sigbus(paths["dies"], memory_fd)
            data = events.wait_for("x-ballonet-guest-restarting")["data"]
            assert (data["name"], data["reason"]) == ("dies", "killed by SIGBUS")
            good.use()
            with start_uml(paths["dies"]) as again:
                assert again.read_num_pages() == TARGET_PAGES
            good.use()
        print(f"longest wait of the good guest: {good.longest_s * 1e3:.1f} ms")  # noqa: T201
        assert b"the device of dies: killed by SIGBUS; started again" in host.log()


def test_a_worker_that_is_killed_comes_back_with_its_target(tmp_path: Path) -> None:
    with running(tmp_path) as host, host.monitor() as events:
        path = host.add("web")
        with start_uml(path) as session:
            set_target(host, "web", session)
            for _ in range(3):
                before = host.worker("web")
                os.kill(before, signal.SIGKILL)
                data = events.wait_for("x-ballonet-guest-restarting")["data"]
                assert (data["name"], data["reason"]) == ("web", "killed by SIGKILL")
                message = "a new worker"
                wait_until(lambda: host.rows()["web"]["pid"] not in (None, before), 10, message)  # noqa: B023
        with start_uml(path) as session:
            assert session.read_num_pages() == TARGET_PAGES
            assert host.rows()["web"]["target"] == TARGET_PAGES * PAGE_BYTES


def test_the_pause_before_a_new_worker_grows(tmp_path: Path) -> None:
    with running(tmp_path) as host, host.monitor() as events:
        host.add("web")
        pauses = []
        for _ in range(3):
            os.kill(host.worker("web"), signal.SIGKILL)
            pauses.append(events.wait_for("x-ballonet-guest-restarting")["data"]["pause"])
            wait_until(lambda: host.rows()["web"]["state"] == "running", 10, "it is back")
        assert pauses == [0.1, 0.2, 0.4]


def test_who_connects_while_there_is_no_worker_waits_for_the_next(tmp_path: Path) -> None:
    with running(tmp_path) as host, host.monitor() as events:
        path = host.add("web")
        for _ in range(3):  # a pause that is long enough to connect in
            os.kill(host.worker("web"), signal.SIGKILL)
            events.wait_for("x-ballonet-guest-restarting")
            wait_until(lambda: host.rows()["web"]["state"] == "running", 10, "it is back")
        os.kill(host.worker("web"), signal.SIGKILL)
        events.wait_for("x-ballonet-guest-restarting")
        assert host.rows()["web"]["state"] == "restarting"
        with FrontEnd.connect(path) as front_end:
            assert front_end.get_features()


def test_no_worker_outlives_a_host_that_is_killed(tmp_path: Path) -> None:
    with running(tmp_path) as host:
        for name in ("web", "db", "mail"):
            host.add(name)
        workers = host.children()
        assert len(workers) == 3
        host.end(signal.SIGKILL)
        wait_until(lambda: not any(is_alive(pid) for pid in workers), 10, "workers are left")


def is_alive(pid: int) -> bool:
    with suppress(FileNotFoundError):
        return "(zombie)" not in Path(f"/proc/{pid}/status").read_text()
    return False


def test_a_worker_that_does_not_answer_is_said_to_be_unresponsive(tmp_path: Path) -> None:
    with running(tmp_path) as host:
        path = host.add("good")
        host.add("stuck")
        os.kill(host.worker("stuck"), signal.SIGSTOP)
        wait_until(lambda: host.rows()["stuck"]["state"] == "unresponsive", 10, "it is seen")
        with start_uml(path) as session:
            Neighbour(session).use(10)
            row = host.rows()["stuck"]
            assert [row[key] for key in ("actual", "target", "stage", "connected")] == [None] * 4
            assert host.rows()["good"]["state"] == "running"
            assert "unresponsive" in host.verb("list").stdout
            assert host.verb("remove", "stuck").returncode == 0
            assert list(host.rows()) == ["good"]
        assert sorted(one.name for one in tmp_path.glob("stuck*")) == []


def test_the_supervisor_has_one_thread_and_no_memory_of_a_guest(tmp_path: Path) -> None:
    with running(tmp_path) as host, start_uml(host.add("web")) as session:
        session.inflate([session.free_range()[0]])
        maps = {pid: Path(f"/proc/{pid}/maps").read_text() for pid in (host.process.pid,)}
        assert FILE_NAME in Path(f"/proc/{host.worker('web')}/maps").read_text()
        assert FILE_NAME not in maps[host.process.pid]
        assert len(os.listdir(f"/proc/{host.process.pid}/task")) == 1  # noqa: PTH208


@pytest.mark.parametrize(("option", "filters"), [("--sandbox", "2"), ("--no-sandbox", "0")])
def test_a_worker_has_no_privileges_unless_told_otherwise(
    tmp_path: Path, option: str, filters: str
) -> None:
    with running(tmp_path, option) as host:
        host.add("web")
        status = Path(f"/proc/{host.worker('web')}/status").read_text()
    found = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert found["Seccomp"] == filters
    if option == "--sandbox":
        assert int(found["CapEff"], 16) == int(found["CapPrm"], 16) == 0
        assert found["NoNewPrivs"] == "1"


def test_many_guests_are_served_at_once(tmp_path: Path) -> None:
    with running(tmp_path) as host, ExitStack() as stack, host.monitor() as client:
        for number in range(50):
            row = client.ask("x-ballonet-add-guest", name=f"guest{number}")["return"]
            session = stack.enter_context(start_uml(Path(row["socket"])))
            session.inflate([session.free_range()[0]])
        rows = host.rows().values()
        assert [row["connected"] for row in rows] == [True] * 50
        assert len(set(host.children())) == 50
        assert all(row["memory"] >= mmap.PAGESIZE for row in rows)
