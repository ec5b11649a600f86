"""A guest under work moves between real processes, or stays whole where it is, whatever happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.integration.moving_guests import (
    MIB,
    Arrival,
    MovingGuest,
    device,
    kill,
)
from tests.support.wait import PATIENCE_S, wait_until

from ballonet.migration.records import End, Failed, Record

SMALL = 32 * MIB


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with a device, and a guest of little memory that stays there."""
    path = tmp_path_factory.mktemp("m")
    with device(path, "a"):
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
    "answered with rubbish": (rave, "what the destination answers: "),
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
