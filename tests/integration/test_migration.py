"""A guest under work moves between real processes, or stays whole where it is, whatever happens."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event

import pytest
from tests.integration.moving_guests import (
    MIB,
    PAGE,
    Arrival,
    MovingGuest,
    device,
    kill,
    resize,
)
from tests.support.small_disk import small_disk
from tests.support.wait import PATIENCE_S, wait_until

from ballonet.migration.records import End, Failed, Pages, Record

SMALL = 32 * MIB


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with a device, and a guest of little memory that stays there."""
    path = tmp_path_factory.mktemp("m")
    with device(path, "a", "--no-free-page-reporting"), device(path, "b"):
        yield path


@pytest.fixture(scope="module")
def stayer(place: Path) -> Iterator[MovingGuest]:
    """A guest whose every migration fails."""
    with MovingGuest(place, "stayer", place / "a", "--memory", "32M") as guest:
        assert guest.status() == "running"
        yield guest


@pytest.fixture(scope="module")
def whole(stayer: MovingGuest) -> Wholeness:
    """How it was before any of them."""
    return Wholeness(stayer)


class Wholeness:
    """What a guest had before it tried to move, and must have afterwards."""

    def __init__(self, guest: MovingGuest) -> None:
        self.guest = guest
        self.free_bytes = guest.ask("meminfo")["MemFree"]
        self.belongings = guest.belongings()

    def begin(self) -> None:
        """It writes something that `check` looks at."""
        assert self.guest.ask("hog", size=4 * MIB)

    def check(self, *, has_free: bool = True) -> None:
        """It runs, every byte is right, and nothing of the migration is left."""
        guest = self.guest
        assert guest.status() == "running"
        assert guest.ask("release_hogs") == 1  # reads what it has written
        wait_until(lambda: not guest.engines(), PATIENCE_S, "the engine is still there")
        assert guest.belongings() == self.belongings
        assert not guest.is_watched()
        assert guest.log() == []
        if has_free:
            self.wait_for_free()

    def wait_for_free(self) -> None:
        """The guest has all its free memory back."""
        wait_until(self._is_free, PATIENCE_S, "hinted memory does not come back")

    def _is_free(self) -> bool:
        return bool(self.guest.ask("meminfo")["MemFree"] == self.free_bytes)


def close(_: Arrival, __: MovingGuest) -> bool:
    return True


def kill_engine(arrival: Arrival, guest: MovingGuest) -> bool:
    (engine,) = guest.engines()
    kill(engine)
    arrival.drain()
    return True


def fail(arrival: Arrival, _: MovingGuest) -> bool:
    arrival.say(Failed("there is no room"))
    arrival.drain()
    return True


def rave(arrival: Arrival, _: MovingGuest) -> bool:
    arrival.channel.send([b"?" * 100])
    arrival.drain()
    return True


WAYS: dict[str, tuple[Callable[[Arrival, MovingGuest], bool], str]] = {
    "closed": (close, ""),
    "engine killed": (kill_engine, "the engine of the migration is gone"),
    "refused": (fail, "the destination refuses: there is no room"),
    "answered with rubbish": (rave, "the destination is gone, or makes no sense: "),
}


@pytest.mark.parametrize("way", list(WAYS))
def test_a_migration_that_ends_at_any_record_leaves_the_guest_whole(
    place: Path, stayer: MovingGuest, whole: Wholeness, way: str
) -> None:
    do, reason = WAYS[way]
    at, reached_end = 0, False
    while not reached_end:
        at += 1

        def spoil(number: int, record: Record, arrival: Arrival, at: int = at) -> bool:
            nonlocal reached_end
            reached_end = isinstance(record, End)
            return (number == at or reached_end) and do(arrival, stayer)

        whole.begin()
        with Arrival(place / "in", SMALL, spoil) as arrival:
            answer = stayer.moved(arrival.uri)
        assert answer["status"] == "failed", f"record {at}"
        assert answer["error-desc"].startswith(reason), f"record {at}"
        assert "\n" not in answer["error-desc"]
        assert not arrival.has_gone
        whole.check(has_free=way != "engine killed")
    whole.wait_for_free()  # of an engine that was killed, when its lease is over
    assert at > 15


def test_after_a_migration_that_failed_the_device_notes_no_writes(
    place: Path, stayer: MovingGuest
) -> None:
    logs: list[int] = []

    def keep_log(_: int, record: Record, __: Arrival) -> bool:
        if isinstance(record, End):
            logs.append(stayer.named_file("ballonet-dirty-log"))
        return isinstance(record, End)

    with Arrival(place / "in", SMALL, keep_log) as arrival:
        assert stayer.moved(arrival.uri)["status"] == "failed"
    size = os.fstat(logs[0]).st_size
    os.pwrite(logs[0], bytes(size), 0)
    resize(place / "a", stayer, 4 * MIB)
    resize(place / "a", stayer, 0)
    assert not os.pread(logs[0], size, 0).strip(b"\0")
    os.close(logs[0])


def test_hints_save_what_is_free(place: Path, stayer: MovingGuest) -> None:
    stayer.ask("use_memory", percent=80)
    sent = {}
    for hints in (True, False):
        stayer.switch(x_ballonet_hints=hints)
        with Arrival(place / "in", SMALL, lambda _, record, __: isinstance(record, End)) as there:
            sent[hints] = stayer.moved(there.uri)["ram"]
    stayer.switch(x_ballonet_hints=True)
    assert sent[False]["x-ballonet-hinted"] == 0
    assert sent[True]["x-ballonet-hinted"] * PAGE > 4 * MIB
    assert sent[True]["transferred"] < sent[False]["transferred"] - 4 * MIB


def test_a_migration_is_cancelled_though_the_destination_does_not_read(
    place: Path, stayer: MovingGuest, whole: Wholeness
) -> None:
    read_on = Event()
    stayer.ask("use_memory", percent=80)
    stayer.switch(x_ballonet_hints=False)  # or there is too little to fill a socket with
    whole.begin()

    def stop_reading(_: int, record: Record, __: Arrival) -> bool:
        return isinstance(record, Pages) and read_on.wait(PATIENCE_S)

    with Arrival(place / "in", SMALL, stop_reading) as arrival:
        stayer.do("migrate", uri=arrival.uri)
        wait_until(lambda: stayer.do("query-migrate")["status"] == "active", PATIENCE_S, "begins")
        assert "in progress" in stayer.refused("migrate", uri=arrival.uri)
        stayer.do("migrate_cancel")
        assert stayer.over()["status"] == "cancelled"
        read_on.set()
    stayer.switch(x_ballonet_hints=True)
    whole.check()


def test_a_guest_that_was_stopped_stays_stopped_if_it_does_not_move(
    place: Path, stayer: MovingGuest
) -> None:
    stayer.do("stop")
    refusals: list[str] = []

    def try_cont(_: int, record: Record, __: Arrival) -> bool:
        if isinstance(record, End):
            refusals.append(stayer.refused("cont"))
        return isinstance(record, End)

    with Arrival(place / "in", SMALL, try_cont) as arrival:
        assert stayer.moved(arrival.uri)["status"] == "failed"
    assert refusals == ["Migration is not finalized yet"]
    assert stayer.status() == "paused"
    stayer.do("cont")
    assert stayer.status() == "running"
    assert stayer.ask("driver")


@pytest.mark.parametrize("what", ["nobody", "a file", "a folder for a file", "no URI"])
def test_a_destination_that_is_none_is_one_line_and_the_guest_goes_on(
    place: Path, stayer: MovingGuest, whole: Wholeness, what: str
) -> None:
    (place / "file").touch()
    uri = {
        "nobody": f"unix:{place}/nobody",
        "a file": f"unix:{place}/file",
        "a folder for a file": f"file:{place}",
        "no URI": "carrier-pigeon:home",
    }[what]
    whole.begin()
    answer = stayer.moved(uri)
    assert answer["status"] == "failed"
    assert answer["error-desc"].count("\n") == 0
    assert (uri if what != "a folder for a file" else str(place)) in answer["error-desc"]
    whole.check()


def test_a_full_disk_is_one_line_and_the_guest_goes_on(
    tmp_path: Path, stayer: MovingGuest, whole: Wholeness
) -> None:
    with small_disk(tmp_path / "disk") as disk:
        whole.begin()
        answer = stayer.moved(f"file:{disk.path}/guest")
        assert answer["status"] == "failed"
        assert answer["error-desc"].endswith("No space left on device")
        whole.check()
