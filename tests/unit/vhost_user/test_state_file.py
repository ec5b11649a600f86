"""A device's state in a file: kept up to date, and never the end of a device."""

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.clock import FakeClock
from tests.support.small_disk import SmallDisk, small_disk

from ballonet.device.state import DeviceState
from ballonet.errors import SettingsError, SystemCallError
from ballonet.vhost_user.state_file import StateFile

STATE = DeviceState(target_pages=8192, actual_pages=4096)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk") as mounted:
        yield mounted


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def on_disk(path: Path) -> DeviceState:
    return DeviceState.from_fields(json.loads(path.read_text()))


def test_a_state_is_read_as_it_was_written(tmp_path: Path, clock: FakeClock) -> None:
    file = StateFile(tmp_path / "s", clock)
    assert file.load() is None
    file.begin(STATE)
    assert StateFile(tmp_path / "s", clock).load() == STATE


def test_a_new_target_is_written_at_once_and_actual_a_little_later(
    tmp_path: Path, clock: FakeClock
) -> None:
    path = tmp_path / "s"
    file = StateFile(path, clock)
    file.begin(STATE)
    moved = replace(STATE, actual_pages=5000)
    file.note(moved)
    assert on_disk(path) == STATE
    assert file.deadline_ns is not None
    asked = replace(moved, target_pages=1)
    file.note(asked)
    assert on_disk(path) == asked
    assert file.deadline_ns is None
    last = replace(asked, actual_pages=1)
    file.note(last)
    assert file.deadline_ns is not None
    clock.ns = file.deadline_ns
    file.note(last)
    assert on_disk(path) == last
    assert file.deadline_ns is None


def test_a_state_that_is_written_already_leaves_nothing_to_wait_for(
    tmp_path: Path, clock: FakeClock
) -> None:
    file = StateFile(tmp_path / "s", clock)
    file.begin(STATE)
    file.note(replace(STATE, actual_pages=1))
    file.note(STATE)
    assert file.deadline_ns is None


NO_STATES = {
    "noise": b"\xff\xfe\x00",
    "nested deeply": b"[" * 200_000,
    "nested deeply and closed": b'{"version":' * 50_000 + b"1" + b"}" * 50_000,
    "a list": b"[]",
    "another version": b'{"version": 9}',
    "a negative target": b'{"version": 1, "target_pages": -1}',
    "a target that is true": json.dumps(STATE.as_fields() | {"target_pages": True}).encode(),
    "a target that is text": json.dumps(STATE.as_fields() | {"target_pages": "8"}).encode(),
    "a target of many digits": b'{"version": 1, "target_pages": ' + b"9" * 5000 + b"}",
    "half a file": json.dumps(STATE.as_fields()).encode()[:20],
    "two megabytes": bytes(2 << 20),
}


@pytest.mark.parametrize("raw", list(NO_STATES.values()), ids=list(NO_STATES))
def test_what_is_no_state_is_put_aside_whole_with_one_line(
    tmp_path: Path, clock: FakeClock, raw: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "s"
    path.write_bytes(raw)
    file = StateFile(path, clock)
    assert file.load() is None
    file.begin(STATE)
    assert (tmp_path / "s.bad").read_bytes() == raw
    assert on_disk(path) == STATE
    (line,) = caplog.messages
    assert "s.bad" in line
    assert "\n" not in line
    assert len(line) < len(str(path)) + 300


def test_an_empty_file_as_a_crash_leaves_it_is_no_state_and_not_kept(
    tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "s").touch()
    file = StateFile(tmp_path / "s", clock)
    assert file.load() is None
    file.begin(STATE)
    assert [one.name for one in tmp_path.iterdir()] == ["s"]
    assert len(caplog.messages) == 1


def test_a_path_that_names_no_file_is_wrong_use(tmp_path: Path, clock: FakeClock) -> None:
    with pytest.raises(SettingsError, match="--state-file"):
        StateFile(tmp_path, clock).load()


def test_a_path_in_no_folder_is_told_at_the_start(tmp_path: Path, clock: FakeClock) -> None:
    with pytest.raises(SystemCallError, match="No such file"):
        StateFile(tmp_path / "missing" / "s", clock).begin(STATE)


def test_on_a_full_disk_the_last_state_stays_and_the_next_is_written_when_there_is_room(
    disk: SmallDisk, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    path = disk.path / "s"
    file = StateFile(path, clock)
    file.begin(STATE)
    disk.fill()
    asked = replace(STATE, target_pages=1)
    file.note(asked)
    assert on_disk(path) == STATE
    assert len(caplog.messages) == 1
    assert file.deadline_ns is not None
    disk.free()
    clock.ns = file.deadline_ns
    file.note(asked)
    assert on_disk(path) == asked
    assert file.deadline_ns is None


def test_on_a_full_disk_targets_by_the_hundred_try_it_ever_less(
    disk: SmallDisk, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    file = StateFile(disk.path / "s", clock)
    file.begin(STATE)
    disk.fill()
    caplog.set_level(logging.WARNING)
    for i in range(3600):
        file.note(replace(STATE, target_pages=i))
        clock.advance(1)
    # 1 + 2 + 4 + ... + 32 seconds, then one try a minute.
    assert len(caplog.messages) == 6 + (3600 - 63) // 60 + 1


def test_a_disk_that_is_full_at_the_start_is_no_obstacle(
    disk: SmallDisk, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    disk.fill()
    file = StateFile(disk.path / "s", clock)
    file.begin(STATE)
    assert "No space left" in caplog.text
    assert file.deadline_ns is not None
