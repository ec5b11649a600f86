"""What a device records of its conversation, and how it reads."""

from __future__ import annotations

import json
import logging
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from tests.integration.device_under_test import Device
from tests.support.front_end import FrontEnd
from tests.support.programs import started, wait_for_listener
from tests.support.scripts import start_uml
from tests.support.session import Session
from tests.support.wait import PATIENCE_S, wait_until
from tests.support.wire import HEADER, NEED_REPLY, VERSION, ClosedError, Req

from ballonet.control.device_control import DeviceControl
from ballonet.device.balloon import BalloonSettings
from ballonet.trace.reader import Line, fold, read_trace
from ballonet.trace.recording import recording
from ballonet.trace.sequence_diagram import ROWS_MOST, sequence_diagram
from ballonet.trace.tracks import Track
from ballonet.trace.writer import TraceWriter
from ballonet.vhost_user.listener import listening_socket
from ballonet.vhost_user.server import make_server, serving

BALLONET = str(Path(sys.executable).with_name("ballonet"))
PAGES = 600
SVG = "{http://www.w3.org/2000/svg}"
#: Configuration accesses, whole and not: offset, size, flags, and bytes that are fewer or more.
ACCESSES = [
    b"",
    bytes(4),
    bytes(11),
    struct.pack("=III", 0, 0, 0),
    struct.pack("=III", 0, 4, 0),
    struct.pack("=III", 0, 4, 0) + bytes(4),
    struct.pack("=III", 0, 4, 0) + bytes(5),
    struct.pack("=III", 0xFFFF_FFFF, 4, 0) + bytes(4),
    struct.pack("=III", 8, 0xFFFF_FFFF, 7) + bytes(8),
    struct.pack("=III", 0, 256, 0) + bytes(256),
    bytes(300),
]


def make_control(sock: socket.socket) -> DeviceControl:
    return DeviceControl(make_server(BalloonSettings(), sock, listening=True))


@contextmanager
def recorded(
    tmp_path: Path, limit_bytes: int = 1 << 30, trace: Path | None = None
) -> Iterator[tuple[DeviceControl, Session]]:
    """A recording device with a guest."""
    with listening_socket(tmp_path / "b.sock") as sock:
        writer = TraceWriter(trace or tmp_path / "trace", limit_bytes)
        control = make_control(sock)
        device = Device(tmp_path / "b.sock", control, [])
        with (
            recording(control, writer, control.server.add_timed),
            serving(control.server),
            start_uml(device) as guest,
        ):
            yield control, guest


def change_target(control: DeviceControl, guest: Session) -> None:
    """What Linux does when its target rises."""
    control.set_target(PAGES)
    guest.front_end.read_backend_message()
    guest.read_num_pages()
    first, _ = guest.free_range()
    guest.ram.fill(first, PAGES)
    for start in range(0, PAGES, 200):
        guest.inflate(range(first + start, first + start + 200))
        guest.write_actual(start + 200)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """A recorded change of the target."""
    with recorded(tmp_path) as (control, guest):
        change_target(control, guest)
    return tmp_path / "trace"


def test_the_whole_path_of_a_change_stands_in_order(trace: Path) -> None:
    lines = list(read_trace(trace))
    start = next(i for i, line in enumerate(lines) if line.track is Track.HOST)
    story = [(line.track, line.name) for line in fold(lines[start:])]
    wanted = [
        (Track.HOST, "set target"),
        (Track.CONFIG, "config change sent"),
        (Track.CONFIG, "driver reads"),
        (Track.INFLATE, "kick"),
        (Track.INFLATE, "inflate message"),
        (Track.INFLATE, "call"),
        (Track.DISCARD, "discard"),
        (Track.CONFIG, "driver writes"),
        (Track.DEVICE, "actual changed"),
    ]
    assert [one for one in story if one in wanted] == wanted


def test_runs_are_told_as_one_with_their_amounts_added_up(trace: Path) -> None:
    messages = [line for line in fold(read_trace(trace)) if line.name == "inflate message"]
    assert [(line.count, line.details) for line in messages] == [(3, {"pages": PAGES})]
    every = [line for line in read_trace(trace) if line.name == "inflate message"]
    assert [line.details for line in every] == [{"pages": 200}] * 3


def test_viewers_can_open_it(trace: Path) -> None:
    events = json.loads(trace.read_text().rstrip().rstrip(",") + "]")
    assert {event["ph"] for event in events} == {"M", "i", "X"}
    assert [event["args"]["name"] for event in events if event["ph"] == "M"] == [
        track.name.lower() for track in Track
    ]
    assert all(event["ts"] >= 0 for event in events if event["ph"] != "M")


def test_a_file_cut_short_is_read_up_to_there(trace: Path) -> None:
    whole = list(read_trace(trace))
    raw = trace.read_bytes()
    trace.write_bytes(raw[: len(raw) * 2 // 3])
    part = list(read_trace(trace))
    assert part == whole[: len(part)]
    assert len(part) > len(whole) // 2


def test_it_is_on_disk_within_a_second_of_quiet(tmp_path: Path) -> None:
    with recorded(tmp_path) as (control, guest):
        change_target(control, guest)

        def last() -> Line | None:
            return next((x for x in read_trace(tmp_path / "trace") if x.name == "discard"), None)

        wait_until(last, 5, "nothing is written")


def test_a_limit_ends_the_record_and_not_the_device(tmp_path: Path) -> None:
    with recorded(tmp_path, limit_bytes=5000) as (_, guest):
        first, _ = guest.free_range()
        for page in range(200):
            guest.inflate([first + page])
    assert (tmp_path / "trace").stat().st_size < 400_000


def answers(path: Path) -> list[bytes | str]:
    """What a device says to each access, asked for an acknowledgement or not."""
    found: list[bytes | str] = []
    for request in (Req.GET_CONFIG, Req.SET_CONFIG):
        for flags in (VERSION, VERSION | NEED_REPLY):
            for payload in ACCESSES:
                with FrontEnd.connect(path) as front_end:
                    front_end.get_features()
                    front_end.set_protocol_features(front_end.get_protocol_features())
                    access = HEADER.pack(request, flags, len(payload)) + payload
                    question = HEADER.pack(Req.GET_QUEUE_NUM, VERSION, 0)
                    front_end.wire.send_raw(access + question)
                    found.append(_answer(front_end))
    return found


def _answer(front_end: FrontEnd) -> bytes | str:
    """Every byte up to the answer to one more question, or to the end."""
    said = b""
    try:
        while True:
            header = front_end.wire.receive_raw(HEADER.size)
            request, _, size = HEADER.unpack(header)
            said += header + front_end.wire.receive_raw(size)
            if request == Req.GET_QUEUE_NUM:
                return said
    except ClosedError:
        return f"{said.hex()}, then the end"


def test_a_recording_device_answers_malformed_accesses_as_any_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with listening_socket(tmp_path / "plain") as sock, serving(make_control(sock).server):
        wanted = answers(tmp_path / "plain")
    with listening_socket(tmp_path / "traced") as sock:
        writer = TraceWriter(tmp_path / "trace", 1 << 30)
        control = make_control(sock)
        with recording(control, writer, control.server.add_timed), serving(control.server):
            assert answers(tmp_path / "traced") == wanted
    assert "bug in ballonet" not in caplog.text
    assert "the trace ends here" not in caplog.text
    lines = [line for line in read_trace(tmp_path / "trace") if line.name == "SET_CONFIG"]
    assert {line.details["bytes"] for line in lines} == {0, 4, 11, 12, 17, 20, 300}


def test_a_full_disk_ends_the_record_with_one_warning_and_not_the_device(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with recorded(tmp_path, trace=Path("/dev/full")) as (control, guest):
        change_target(control, guest)
        assert control.status().actual_pages == PAGES
    warnings = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert warnings == ["the trace ends here: No space left on device"]


def test_a_pipe_that_nobody_empties_ends_the_record_and_not_the_device(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        with recorded(tmp_path, trace=tmp_path / "pipe") as (_, guest):
            first, _ = guest.free_range()
            for page in range(400):
                guest.inflate([first + page])
    finally:
        os.close(reader)
    assert caplog.text.count("the trace ends here") == 1


def test_a_record_that_fails_in_an_unforeseen_way_ends_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no such thing")

    with recorded(tmp_path) as (control, guest):
        monkeypatch.setattr(TraceWriter, "instant", fail)
        monkeypatch.setattr(TraceWriter, "span", fail)
        change_target(control, guest)
        assert control.status().actual_pages == PAGES
    assert caplog.text.count("the trace ends here: RuntimeError: no such thing") == 1


def test_the_command_prints_words_objects_and_parts(trace: Path) -> None:
    def printed(*options: str) -> str:
        command = [BALLONET, "trace", str(trace), *options]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert "set target: pages 600" in printed()
    assert "inflate message, 3 times: pages 600" in printed()
    assert printed("--all").count("inflate message: pages 200") == 3
    assert {json.loads(line)["track"] for line in printed("--json").splitlines()} > {"discard"}
    assert all("discard" in line for line in printed("--queue", "discard").splitlines())
    assert printed("--since", "999") == ""


def test_the_picture_has_every_message_between_whom_it_went(trace: Path, tmp_path: Path) -> None:
    command = [BALLONET, "trace", str(trace), "--svg", str(tmp_path / "picture.svg")]
    assert subprocess.run(command, capture_output=True, check=True).stdout == b""
    root = ET.parse(tmp_path / "picture.svg").getroot()  # noqa: S314 - ours
    lanes = {
        int(one.get("x", "")): one.text
        for one in root.iter(f"{SVG}text")
        if one.get("class") == "party"
    }
    told = list(fold(read_trace(trace)))
    groups = list(root.iter(f"{SVG}g"))
    assert [group.findtext(f"{SVG}title") for group in groups] == [line.words for line in told]
    ways = {}
    for line, group in zip(told, groups, strict=True):
        arrow = group.find(f"{SVG}line")
        if arrow is not None:
            ends = (int(arrow.get("x1", "")), int(arrow.get("x2", "")))
            ways[line.name] = (lanes[ends[0]], lanes[ends[1]])
    assert ways["set target"] == ("host", "device")
    assert ways["config change sent"] == ("device", "guest")
    assert ways["inflate message"] == ("guest", "device")
    assert ways["discard"] == ("device", "host")
    assert ways["SET_MEM_TABLE"] == ("VMM", "device")


def test_of_a_long_conversation_the_beginning_is_drawn_and_the_rest_counted() -> None:
    lines = (Line(float(at), Track.INFLATE, "kick", {"pages": at}) for at in range(ROWS_MOST + 7))
    picture = sequence_diagram("long", lines)
    assert picture.count("<g>") == ROWS_MOST
    assert "and 7 more" in picture


def test_no_byte_of_a_trace_ends_the_picture() -> None:
    odd = Line(0.0, Track.DEVICE, "</text><script>\x00\x1b[31m & \ud800", {"<a>": "]]>"})
    root = ET.fromstring(sequence_diagram("\x07<title>", [odd]))  # noqa: S314 - ours
    assert not list(root.iter(f"{SVG}script"))


def test_a_file_that_is_no_trace_is_wrong_use(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("hello\n")
    for name in ("other", "missing"):
        command = [BALLONET, "trace", str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1


EVENT = '{"name": "kick", "pid": 1, "tid": 4, "ts": 5, "args": {}, "ph": "i", "s": "t"},'
ODD = {
    "garbage": "garbage",
    "not UTF-8": b"\xff\xfe\x00".decode("latin-1"),
    "deeply nested": "[" * 50_000,
    "a huge number": EVENT.replace("5", "9" * 4000),
    "an endless line": EVENT[:-2] + " " * 200_000 + "},",
    "NaN": EVENT.replace("5", "NaN"),
    "infinite": EVENT.replace("{}", '{"a": 1e999}'),
    "a list": "[1, 2],",
    "no details": EVENT.replace("{}", "3"),
    "a name that is a list": EVENT.replace('"kick"', "[]"),
    "a track of nobody": EVENT.replace("4", "77"),
}


@pytest.mark.parametrize("odd", list(ODD))
@pytest.mark.parametrize("options", [(), ("--json", "--all")])
def test_a_crafted_trace_is_told_up_to_what_is_odd_in_it(
    tmp_path: Path, odd: str, options: tuple[str, ...]
) -> None:
    path = tmp_path / "trace"
    path.write_bytes("\n".join(("[", EVENT, ODD[odd], EVENT, "")).encode("latin-1"))
    command = [BALLONET, "trace", str(path), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout.count("kick") == 1
    assert done.stderr == (
        f"ballonet: {path}, line 3: got 'no event', expected a trace of ballonet\n"
    )


def test_no_byte_of_a_trace_controls_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_text("[\n" + EVENT.replace("kick", r"\u001b[2J\ud800") + "\n")
    done = subprocess.run([BALLONET, "trace", str(path)], capture_output=True, check=True)
    assert done.stdout.endswith(b"  \\x1b[2J\\ud800\n")


def test_the_device_program_records_and_ends_well(tmp_path: Path) -> None:
    paths = str(tmp_path / "s"), str(tmp_path / "t")
    command = [BALLONET, "device", "--no-defer-discards", "--socket-path", paths[0]]
    command += ["--trace", paths[1]]
    with started(command, stderr=subprocess.DEVNULL) as process:
        wait_for_listener(tmp_path / "s")
        with FrontEnd.connect(tmp_path / "s") as front_end:
            assert front_end.get_features()
        process.terminate()
        assert process.wait(PATIENCE_S) == 0
    assert "GET_FEATURES" in {line.name for line in read_trace(tmp_path / "t")}
