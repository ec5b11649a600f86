"""A machine that waits for a guest: what it refuses, in one line, and how it is interrupted."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from tests.integration.moving_guests import MIB, Arrival, MovingGuest, device, waiting
from tests.support.wait import PATIENCE_S

from ballonet.errors import BallonetError
from ballonet.migration.channels import SocketChannel
from ballonet.migration.framing import HEADER_BYTES, PREAMBLE, RecordReader, RecordWriter
from ballonet.migration.receiver import receive_record
from ballonet.migration.records import (
    BACKWARD,
    Begin,
    End,
    Failed,
    GuestRegion,
    Pages,
    Pass,
    Record,
    State,
    StateName,
)

SIZE = 32 * MIB


class Stream:
    """A migration that would arrive, up to its END."""

    def __init__(self) -> None:
        self.kinds: list[type[Record]] = []
        self.raw: list[bytes] = []

    def keep(self, _: int, record: Record, arrival: Arrival) -> bool:
        self.kinds.append(type(record))
        self.raw = list(arrival.raw)
        return isinstance(record, End)

    def at(self, kind: type[Record]) -> int:
        """The first of a kind."""
        return self.kinds.index(kind)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with two devices."""
    path = tmp_path_factory.mktemp("m")
    with device(path, "a"), device(path, "b"):
        yield path


@pytest.fixture(scope="module")
def stream(place: Path) -> Stream:
    """Of a guest with something in its memory."""
    found = Stream()
    with (
        MovingGuest(place, "here", place / "a", "--memory", "32M") as guest,
        Arrival(place / "arrival", SIZE, found.keep) as arrival,
    ):
        assert guest.ask("hog", size=3 * MIB)
        assert guest.moved(arrival.uri)["status"] == "failed"
    return found


def arrive(path: Path, raw: Sequence[bytes]) -> list[Record]:
    """Send a stream and hang up; returns what was answered."""
    answers: list[Record] = []
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path / "in"))
        with SocketChannel(sock, "destination", int(PATIENCE_S)) as channel:
            with suppress(BallonetError):
                channel.send(raw)
            with suppress(OSError):
                sock.shutdown(socket.SHUT_WR)
            reader = RecordReader(BACKWARD)
            with suppress(BallonetError):
                while True:
                    answers.append(receive_record(channel, reader))
    return answers


def is_clean(path: Path) -> bool:
    return not (path / "in").exists() and not (path / "there.qmp").exists()


def flipped(raw: bytes, at: int) -> bytes:
    return raw[:at] + bytes([raw[at] ^ 4]) + raw[at + 1 :]


def changed(stream: Stream, kind: type[Record], change: Callable[[bytes], bytes]) -> list[bytes]:
    """The stream with another first record of a kind."""
    at = stream.at(kind)
    return [*stream.raw[:at], change(stream.raw[at]), *stream.raw[at + 1 :]]


def nonsense(_: Stream) -> list[bytes]:
    """States with nothing in them, in a stream without a fault."""
    writer = RecordWriter()
    records: list[Record] = [Begin((GuestRegion(0, SIZE, 4096),), False, False), Pass(1)]
    records += [State(name, 0, 1, (memoryview(b"nonsense"),)) for name in StateName]
    raw = [b"".join(writer.pack(record)) for record in records]
    return [*raw, b"".join(writer.pack(End(writer.totals)))]


#: What arrives, and what is said of it.
WRONG: dict[str, tuple[Callable[[Stream], list[bytes]], str]] = {
    "something else": (lambda _: [b"GET / HTTP/1.1\r\n\r\n"], "this is no migration"),
    "another version": (
        lambda stream: [flipped(stream.raw[0], len(PREAMBLE) - 2), *stream.raw[1:]],
        "version",
    ),
    "cut in a header": (lambda stream: [*stream.raw[:3], stream.raw[3][:9]], "the stream ends"),
    "cut in a page": (
        lambda stream: [*stream.raw[: (at := stream.at(Pages))], stream.raw[at][:-9]],
        "the stream ends",
    ),
    "cut before its end": (lambda stream: stream.raw[:-1], "the stream ends"),
    "cut before GO": (lambda stream: stream.raw, "the stream ends"),
    "another order": (
        lambda stream: [*stream.raw[:2], stream.raw[3], stream.raw[2], *stream.raw[4:]],
        "a record is missing or repeated",
    ),
    "a bit of a header": (
        lambda stream: changed(stream, Pages, lambda raw: flipped(raw, 5)),
        "checksum",
    ),
    "a bit of a table": (
        lambda stream: changed(stream, Pages, lambda raw: flipped(raw, HEADER_BYTES + 2)),
        "checksum",
    ),
    "a bit of a page": (
        lambda stream: changed(stream, Pages, lambda raw: flipped(raw, len(raw) - 999)),
        "checksum",
    ),
    "a bit of a state": (
        lambda stream: changed(stream, State, lambda raw: flipped(raw, len(raw) - 99)),
        "checksum",
    ),
    "states of nothing": (nonsense, ""),
}


@pytest.mark.parametrize("what", list(WRONG))
def test_what_is_no_guest_is_refused_in_one_line(place: Path, stream: Stream, what: str) -> None:
    make, reason = WRONG[what]
    with waiting(place, "32M") as there:
        answers = arrive(place, make(stream))
        code, lines = there.ended()
    assert code == 1
    assert len(lines) == 2, lines
    assert lines[1].startswith("ballonet: ")
    assert reason in lines[1]
    last = answers[-1]
    assert isinstance(last, Failed)
    assert lines[1].endswith(last.reason)
    assert is_clean(place)


def test_a_guest_of_another_size_is_refused_and_its_source_is_told(
    place: Path, stream: Stream
) -> None:
    with waiting(place, "64M") as there:
        (answer,) = arrive(place, stream.raw)
        code, lines = there.ended()
    assert isinstance(answer, Failed)
    assert "33554432 bytes" in answer.reason
    assert "67108864 bytes" in answer.reason
    assert (code, len(lines)) == (1, 2)


def test_a_device_that_cannot_serve_the_guest_leaves_it_where_it_is(
    place: Path, tmp_path: Path
) -> None:
    with (
        device(tmp_path, "c", "--no-free-page-hint"),
        MovingGuest(place, "here", place / "a", "--memory", "32M") as here,
        waiting(tmp_path, "32M", "c") as there,
    ):
        answer = here.moved(f"unix:{tmp_path}/in")
        code, lines = there.ended()
        assert (code, len(lines)) == (1, 2)
        assert answer["error-desc"].startswith("the destination refuses: ")
        assert lines[1].removeprefix("ballonet: ") in answer["error-desc"]
        assert here.status() == "running"


@pytest.mark.parametrize("moment", ["waiting", "in the middle"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_machine_that_waits_is_interrupted_and_leaves_nothing(
    place: Path, stream: Stream, number: signal.Signals, moment: str
) -> None:
    with waiting(place, "32M") as there, socket.socket(socket.AF_UNIX) as sock:
        if moment == "in the middle":
            sock.connect(str(place / "in"))
            sock.sendall(stream.raw[0])
            assert sock.recv(1)  # READY
        there.process.send_signal(number)
        code, lines = there.ended()
    assert code == 128 + number
    assert len([one for one in lines if one]) == 1, lines  # Ctrl-C ends the terminal's line, too
    assert is_clean(place)


def test_a_machine_that_waits_can_be_switched_off(place: Path) -> None:
    with waiting(place, "32M") as there:
        there.do("quit")
        code, lines = there.ended()
    assert (code, len(lines)) == (128 + signal.SIGTERM, 1)
    assert is_clean(place)
