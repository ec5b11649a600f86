"""The conversation with a real kernel, as recorded."""

from __future__ import annotations

from pathlib import Path

from tests.support.wait import wait_until

from ballonet.control.device_control import DeviceControl
from ballonet.device.balloon import BalloonSettings
from ballonet.guests.linux import LinuxGuest, LinuxGuestSettings
from ballonet.trace.reader import fold, read_trace
from ballonet.trace.recording import recording
from ballonet.trace.tracks import Track
from ballonet.trace.writer import TraceWriter
from ballonet.vhost_user.listener import listening_socket
from ballonet.vhost_user.server import make_server, serving

PAGES = 10_000


def test_one_change_of_the_target_shows_its_whole_path(tmp_path: Path) -> None:
    with listening_socket(tmp_path / "b.sock") as sock:
        writer = TraceWriter(tmp_path / "trace", 1 << 30)
        control = DeviceControl(make_server(BalloonSettings(), sock, listening=True))
        settings = LinuxGuestSettings(256 << 20, tmp_path / "b.sock")
        with (
            recording(control, writer, control.server.add_timed),
            serving(control.server),
            LinuxGuest(settings),
        ):
            control.set_target(PAGES)
            wait_until(lambda: control.status().actual_pages == PAGES, 30, "the balloon grew")
            wait_until(lambda: not control.status().waiting_bytes, 30, "the host has its memory")
    lines = list(read_trace(tmp_path / "trace"))
    start = next(i for i, line in enumerate(lines) if line.track is Track.HOST)
    story = {(line.track, line.name): line for line in fold(lines[start:])}
    wanted = [
        *((Track.HOST, "set target"), (Track.CONFIG, "config change sent")),
        *((Track.CONFIG, "driver reads"), (Track.INFLATE, "kick")),
        *((Track.INFLATE, "inflate message"), (Track.INFLATE, "call")),
        *((Track.CONFIG, "driver writes"), (Track.DEVICE, "actual changed")),
    ]
    assert [place for place in story if place in wanted] == wanted
    messages = story[Track.INFLATE, "inflate message"]
    assert (messages.count, messages.details) == (-(-PAGES // 256), {"pages": PAGES})
    discards = story[Track.DISCARD, "discard"]
    assert (
        discards.at_s >= messages.at_s
    )  # when the guest pauses, between two messages or after all
    assert discards.details["bytes"] == PAGES * 4096
    assert story[Track.DEVICE, "actual changed"].details == {"actual": PAGES}
