"""Our host behind a guest's port; a machine of the tests' own has it, and speaks for its guest."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.support.guest_memory import PAGE_BYTES, GuestRam, RamRegion
from tests.support.wait import PATIENCE_S, wait_until

from ballonet.hyperv.host_state import HostState
from ballonet.hyperv.settings import HypervHostSettings
from ballonet.memory.mapping import GuestMemory
from ballonet.memory.regions import Region
from ballonet.siblings import vmbus_serial
from ballonet.siblings.serving import serving
from ballonet.siblings.vmbus_serial import VmbusSerial

SETTINGS = HypervHostSettings(post_init_wait_ns=0)
PAGES = 4096
RANGES = 510  # that have room in a message
BALLOON_REQUEST, UNBALLOON_REQUEST = 6, 8


def message(kind: int, body: bytes) -> bytes:
    """As it goes over the port: length, header, body."""
    size = 8 + len(body)
    return struct.pack("<IHHI", size, kind, size, 0) + body


VERSION_REQUEST = message(1, struct.pack("<II", 2 << 16, 0))
CAPABILITIES_REPORT = message(3, struct.pack("<QQQ", 1, 0, (1 << 64) - 1))
STATUS_REPORT = message(5, bytes(40))


REGION = RamRegion(0, PAGES * PAGE_BYTES, 0)


class Machine:
    """The machine's end of the port."""

    def __init__(self, path: Path) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._listener.settimeout(PATIENCE_S)

    def accept(self) -> socket.socket:
        """The host that comes next."""
        line, _ = self._listener.accept()
        line.settimeout(PATIENCE_S)
        return line

    def begin(self) -> socket.socket:
        """The same, and both come to terms."""
        line = self.accept()
        line.sendall(VERSION_REQUEST)
        assert take(line)[0] == 2
        line.sendall(CAPABILITIES_REPORT)
        assert [take(line)[0] for _ in range(2)] == [4, 12]
        return line

    def close(self) -> None:
        self._listener.close()


def take(line: socket.socket) -> tuple[int, bytes]:
    """Kind and body of the next message. Raises: EOFError, if the host has hung up."""
    length = int.from_bytes(read(line, 4), "little")
    raw = read(line, length)
    kind, size, _ = struct.unpack_from("<HHI", raw)
    assert size == length
    return kind, raw[8:]


def read(line: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        data = line.recv(count - len(found))
        if not data:
            raise EOFError
        found += data
    return found


def balloon_response(pfns: NDArray[np.int64], *, more: bool) -> bytes:
    words = pfns.astype(np.uint64) | np.uint64(1 << 40)
    return message(7, struct.pack("<II", 0, pfns.size << 1 | more) + words.tobytes())


@pytest.fixture
def ram() -> Iterator[GuestRam]:
    with GuestRam([REGION]) as made:
        yield made


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with closing(Machine(tmp_path / "port")) as made:
        yield made


@pytest.fixture
def impatient_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that leaves as soon as it has come, unless it is spoken to at once."""
    monkeypatch.setattr(vmbus_serial, "_BEGIN_NS", 10_000_000)


@pytest.fixture
def port(tmp_path: Path, ram: GuestRam) -> Iterator[VmbusSerial]:
    memory = GuestMemory()
    memory.replace([Region(0, REGION.size, 0, 0)], [ram.fd(REGION)])
    with closing(memory), serving(VmbusSerial(SETTINGS, tmp_path / "port", memory)) as made:
        yield made


def state_of(port: VmbusSerial) -> HostState:
    return port.loop.ask(lambda: port.host.state, PATIENCE_S)


def test_a_guest_is_served_whose_every_byte_comes_alone(
    machine: Machine, port: VmbusSerial
) -> None:
    with machine.accept() as line:
        for byte in VERSION_REQUEST + CAPABILITIES_REPORT:
            line.sendall(bytes([byte]))
        assert [take(line)[0] for _ in range(3)] == [2, 4, 12]
        assert port.loop.ask(lambda: port.host.is_running, PATIENCE_S)


@pytest.mark.parametrize("length", [0, 4097, (1 << 32) - 1])
def test_who_sends_no_frames_is_left_and_may_begin_again(
    machine: Machine, port: VmbusSerial, length: int
) -> None:
    with machine.begin() as line:
        line.sendall(length.to_bytes(4, "little"))
        with pytest.raises(EOFError):
            take(line)
    with machine.begin():
        assert port.loop.ask(lambda: port.host.is_running, PATIENCE_S)


@pytest.mark.parametrize(
    "stale",
    [STATUS_REPORT, CAPABILITIES_REPORT, STATUS_REPORT[7:]],
    ids=["a status report", "capabilities", "the rest of a frame"],
)
def test_a_guest_that_goes_on_with_an_older_conversation_is_visited_until_it_begins_anew(
    machine: Machine, port: VmbusSerial, stale: bytes
) -> None:
    for _ in range(2):
        with machine.accept() as line:
            line.sendall(stale)
            with pytest.raises(EOFError):
                take(line)
    with machine.begin():
        assert port.loop.ask(lambda: port.host.is_running, PATIENCE_S)


def test_a_bug_of_ours_costs_one_connection(
    machine: Machine, port: VmbusSerial, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(_: bytes) -> None:
        raise ZeroDivisionError

    with machine.begin() as line:
        monkeypatch.setattr(port.host, "received", stumble)
        line.sendall(STATUS_REPORT)
        with pytest.raises(EOFError):
            take(line)
    monkeypatch.undo()
    with machine.begin():
        assert port.ask(lambda host: host.is_running)


def test_a_driver_that_begins_anew_in_the_middle_has_all_its_memory(
    machine: Machine, port: VmbusSerial, ram: GuestRam
) -> None:
    ram.fill(0, PAGES)
    with machine.begin() as line:
        port.ask(lambda host: host.set_target(2))
        assert take(line)[0] == BALLOON_REQUEST
        line.sendall(balloon_response(np.array([3]), more=True) + VERSION_REQUEST)
        assert take(line)[0] == 2
        line.sendall(CAPABILITIES_REPORT)
        assert [take(line)[0] for _ in range(3)] == [4, 12, BALLOON_REQUEST]
        line.sendall(balloon_response(np.array([5]), more=True))
        wait_until(lambda: 5 in ram.changed_pages(0, PAGES), PATIENCE_S, "not dropped")
        assert port.ask(lambda host: host.actual_pages) == 1


@pytest.mark.usefixtures("impatient_host", "port")
def test_a_guest_that_says_nothing_is_left_and_visited_again(machine: Machine) -> None:
    for _ in range(2):
        with machine.accept() as line, pytest.raises(EOFError):
            take(line)


def test_ranges_that_find_no_room_wait_for_the_guest_and_none_is_lost(
    machine: Machine, port: VmbusSerial, ram: GuestRam
) -> None:
    ram.fill(0, PAGES)
    given = np.arange(1, PAGES, 2)
    with machine.begin() as line:
        port.loop.ask(lambda: port.host.set_target(given.size), PATIENCE_S)
        assert take(line)[0] == BALLOON_REQUEST
        for start in range(0, given.size, RANGES):
            part = given[start : start + RANGES]
            line.sendall(balloon_response(part, more=start + RANGES < given.size))
        wait_until(lambda: len(ram.zero_pages(0, PAGES)) == given.size, PATIENCE_S, "not dropped")
        port.loop.ask(lambda: port.host.set_target(0), PATIENCE_S)
        wait_until(lambda: port.host.counters.full_rings, PATIENCE_S, "there is always room")
        # What the guest hears of is its own again: nothing may drop it any more.
        taken: list[int] = []
        more = True
        while more:
            kind, body = take(line)
            assert kind == UNBALLOON_REQUEST
            more, count = bool(body[0] & 1), int.from_bytes(body[4:8], "little")
            words = np.frombuffer(body, "<u8", count, 8)
            for word in words.tolist():
                first, pages = word & (1 << 40) - 1, word >> 40
                ram.fill(first, pages)
                taken += range(first, first + pages)
        line.sendall(message(9, b""))
        wait_until(lambda: state_of(port) is HostState.IDLE, PATIENCE_S, "the host waits for more")
    assert taken == given.tolist()
    assert not ram.changed_pages(0, PAGES)


def test_a_machine_that_goes_takes_its_guest_and_another_may_come(
    tmp_path: Path, machine: Machine, port: VmbusSerial, ram: GuestRam
) -> None:
    ram.fill(0, PAGES)
    with machine.begin() as line:
        machine.close()
        (tmp_path / "port").unlink()
        port.loop.ask(lambda: port.host.set_target(2), PATIENCE_S)
        assert take(line)[0] == BALLOON_REQUEST
    wait_until(lambda: state_of(port) is HostState.WAIT_RESET, PATIENCE_S, "nobody has gone")
    assert port.guest_memory is None
    with closing(Machine(tmp_path / "port")) as other, other.begin() as line:
        # It is asked for what the one before was asked for.
        assert take(line) == (BALLOON_REQUEST, struct.pack("<II", 2, 0))
        line.sendall(balloon_response(np.array([3, 5]), more=False))
        wait_until(lambda: ram.changed_pages(0, PAGES) == {3, 5}, PATIENCE_S, "not dropped")
