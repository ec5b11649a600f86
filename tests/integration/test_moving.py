"""A guest moves from one real process to another; whoever dies meanwhile, it never runs twice."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.integration.moving_guests import (
    MIB,
    PAGE,
    Arrival,
    MovingGuest,
    Relay,
    ask_device,
    device,
    kill,
    resize,
    waiting,
)
from tests.support.wait import PATIENCE_S, wait_until

from ballonet.migration.records import End, Pages, Pass, Record, State

SIZE = 64 * MIB


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with a device to leave, `a`, and one to come to, `b`."""
    path = tmp_path_factory.mktemp("m")
    with device(path, "a"), device(path, "b"):
        yield path


def leaving(path: Path, *options: str) -> MovingGuest:
    return MovingGuest(path, "here", path / "a", "--memory", "64M", *options)


def first(kind: type[Record], do: Callable[[], None]) -> Callable[[int, Record], None]:
    """Do something before the first record of a kind is passed on."""
    done: list[bool] = []

    def watch(_: int, record: Record) -> None:
        if isinstance(record, kind) and not done:
            done.append(True)
            do()

    return watch


def has_given_up(guest: MovingGuest) -> bool:
    """It has ended, and says so in one line."""
    code, lines = guest.ended()
    return code == 1 and len(lines) == 2 and lines[1].startswith("ballonet: ")


@pytest.mark.parametrize(("ring", "poison"), [("packed", "0"), ("split", "170")])
def test_a_guest_under_work_moves_with_its_balloon(tmp_path: Path, ring: str, poison: str) -> None:
    options = ("--packed",) if ring == "packed" else ()
    guest = ("--workload", "web", "--speed", "20", "--poison", poison, "--swap", "16M")
    with (
        device(tmp_path, "a", *options),
        device(tmp_path, "b", *options),
        leaving(tmp_path, *guest) as here,
        waiting(tmp_path, "64M", "b", *guest) as there,
    ):
        total = here.ask("meminfo")["MemTotal"]
        assert here.ask("hog", size=4 * MIB)
        resize(tmp_path / "a", here, 16 * MIB)
        here.switch(events=True, x_ballonet_verify=True)
        assert there.status() == "inmigrate"
        change = first(Pages, lambda: set_balloon(tmp_path / "a", 20 * MIB))
        with Relay(tmp_path / "relay", tmp_path / "in", change) as relay:
            answer = here.moved(relay.uri)
        assert answer["status"] == "completed", answer
        has_left(here)
        has_arrived(there, tmp_path / "b", total - 20 * MIB)


def set_balloon(path: Path, balloon_bytes: int) -> None:
    ask_device(path, "balloon", value=SIZE - balloon_bytes)


def has_left(here: MovingGuest) -> None:
    """The source knows, and cannot be talked into anything."""
    assert here.status() == "postmigrate"
    assert "moved" in here.refused("cont")
    assert "moved" in here.refused("migrate", uri="unix:elsewhere")
    here.do("migrate_cancel")
    assert here.do("query-migrate")["status"] == "completed"

    def told() -> list[str]:
        here.status()
        rows = [one for one in here.qmp.events if one["event"] == "MIGRATION"]
        return [str(one["data"]["status"]) for one in rows]

    wait_until(lambda: "completed" in told(), PATIENCE_S, "it is not told")
    assert told() == ["setup", "active", "completed"]
    passes = [one["data"]["pass"] for one in here.qmp.events if one["event"] == "MIGRATION_PASS"]
    assert passes == list(range(1, len(passes) + 1))
    assert len(passes) > 1


def has_arrived(there: MovingGuest, path: Path, total: int) -> None:
    """Balloon, memory and work are there, and every mark is right."""
    message = "the target that was changed on the way is forgotten"
    wait_until(lambda: there.ask("meminfo")["MemTotal"] == total, PATIENCE_S, message)
    assert there.status() == "running"
    assert ask_device(path, "query-balloon")["actual"] == SIZE - 20 * MIB
    assert there.ask("driver")["actual_pages"] == 20 * MIB // PAGE
    assert there.ask("release_hogs") == 1
    faults = there.ask("vmstat")["pgfault"]
    message = "the work does not go on"
    wait_until(lambda: there.ask("vmstat")["pgfault"] > faults, PATIENCE_S, message)
    resize(path, there, 0)
    assert there.ask("hog", size=8 * MIB)
    assert there.ask("release_hogs") == 1
    assert there.status() == "running"


def test_every_page_arrives_as_the_guest_that_was_stopped_has_it(road: Path) -> None:
    """Without hints all of them, the free ones too; the balloon grows meanwhile."""
    inflate = first(Pages, lambda: set_balloon(road / "a", 8 * MIB))
    forget = first(End, lambda: set_balloon(road / "a", 0))  # for the next guest

    def grow(number: int, record: Record, _: Arrival) -> bool:
        inflate(number, record)
        forget(number, record)
        return False

    with leaving(road, "--workload", "batch", "--speed", "20") as here:
        here.ask("use_memory", percent=50)
        here.switch(x_ballonet_hints=False)
        with Arrival(road / "arrival", SIZE, grow) as there:
            assert here.moved(there.uri)["status"] == "completed"
            assert here.status() == "postmigrate"
            wait_until(lambda: there.has_gone, PATIENCE_S, "GO has not come")
            memory = here.named_file("ballonet-guest")
            pages = [np.frombuffer(os.pread(fd, SIZE, 0), np.uint64) for fd in (memory, there.fd)]
            os.close(memory)
            differ = (pages[0] != pages[1]).reshape(-1, PAGE // 8).any(axis=1)
            assert np.flatnonzero(differ).tolist() == []
            assert pages[0].any()


def test_hinted_memory_is_free_at_the_destination(road: Path) -> None:
    with leaving(road) as here, waiting(road) as there:
        here.ask("use_memory", percent=80)
        free = here.ask("meminfo")["MemFree"]
        here.switch(x_ballonet_verify=True)
        answer = here.moved(f"unix:{road}/in")
        assert answer["status"] == "completed", answer
        assert answer["ram"]["x-ballonet-hinted"]
        message = "hinted memory is not free"
        wait_until(lambda: there.ask("meminfo")["MemFree"] == free, PATIENCE_S, message)
        assert there.ask("use_memory", percent=90)
        assert there.status() == "running"


def test_a_guest_that_gives_no_hints_or_cannot_be_asked_moves_without(tmp_path: Path) -> None:
    with device(tmp_path, "a", "--no-free-page-hint"), leaving(tmp_path) as here:
        for _ in range(2):
            with Arrival(tmp_path / "in", SIZE, lambda _, one, __: isinstance(one, End)) as there:
                answer = here.moved(there.uri)
            assert answer["error-desc"].startswith("the destination is gone")
            assert there.incoming.totals.hole_pages
            assert here.do("query-migrate")["ram"]["x-ballonet-hinted"] == 0
            (tmp_path / "a.qmp").unlink(missing_ok=True)


def test_a_guest_that_stands_still_moves_and_stands_still(road: Path) -> None:
    with leaving(road) as here, waiting(road) as there:
        assert here.ask("hog", size=MIB)
        here.do("stop")
        assert here.moved(f"unix:{road}/in")["status"] == "completed"
        wait_until(lambda: there.status() != "inmigrate", PATIENCE_S, "it does not arrive")
        assert there.status() == "paused"
        there.do("cont")
        assert there.status() == "running"
        assert there.ask("release_hogs") == 1


def test_a_destination_that_is_killed_leaves_the_guest_where_it_is(road: Path) -> None:
    with leaving(road, "--workload", "web") as here:
        for kind in (Pass, Pages, State, End):
            assert here.ask("hog", size=MIB)
            with waiting(road) as there:
                watch = first(kind, lambda pid=there.pid: kill(pid))  # type: ignore[misc]
                with Relay(road / "relay", road / "in", watch) as relay:
                    answer = here.moved(relay.uri)
            (road / "in").unlink()
            assert answer["status"] == "failed"
            assert answer["error-desc"].count("\n") == 0
            assert here.status() == "running"
            assert here.ask("release_hogs") == 1
            assert not here.is_watched()


@pytest.mark.parametrize("kind", [Pages, State, End])
def test_a_guest_whose_machine_is_killed_runs_nowhere(road: Path, kind: type[Record]) -> None:
    with leaving(road, "--workload", "web") as here, waiting(road) as there:
        engines: list[int] = []

        def end() -> None:
            engines.extend(here.engines())
            here.kill()

        with Relay(road / "relay", road / "in", first(kind, end)) as relay:
            here.do("migrate", uri=relay.uri)
            assert has_given_up(there)
        wait_until(lambda: is_gone(engines[0]), PATIENCE_S, "its engine outlives it")
        assert here.log() == []


def is_gone(pid: int) -> bool:
    """It has ended, whether or not somebody has waited for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_guest_handed_over_that_did_not_go_runs_where_its_operator_says(
    road: Path,
) -> None:
    """The engine is killed between the two: whether its last word has arrived, nobody knows."""
    with leaving(road, "--workload", "web") as here, waiting(road) as there:
        here.do("query-status")
        stop = first(End, lambda: os.kill(here.pid, signal.SIGSTOP))
        with Relay(road / "relay", road / "in", stop) as relay:
            here.do("migrate", uri=relay.uri)
            (engine,) = wait_until(here.engines, PATIENCE_S, "there is no engine")
            wait_until(lambda: asks_machine(engine, here), PATIENCE_S, "it does not hand over")
            kill(engine)
            os.kill(here.pid, signal.SIGCONT)
            answer = here.over()
            assert has_given_up(there)
        assert answer["status"] == "failed"
        assert "handed over" in answer["error-desc"]
        assert here.status() == "postmigrate"
        assert "moved" in here.refused("migrate", uri=f"unix:{road}/in")
        # Its operator has seen that it does not run there.
        here.do("cont")
        assert here.status() == "running"
        here.ask("use_memory", percent=50)


def asks_machine(engine: int, here: MovingGuest) -> bool:
    """An engine whose machine stands still waits for its answer."""
    if Path(f"/proc/{here.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        return False
    link = int(Path(f"/proc/{engine}/cmdline").read_text().split("\0")[-2])
    call = Path(f"/proc/{engine}/syscall").read_text().split()
    return len(call) > 1 and int(call[1], 16) == link


@pytest.mark.parametrize("bandwidth", [0, 8 * MIB])
def test_a_device_that_is_killed_in_a_round_of_hints_takes_no_page_with_it(
    tmp_path: Path, bandwidth: int
) -> None:
    """It is there again in time for the stop of a guest that moves slowly, else mostly not."""
    state = ("--state-file", str(tmp_path / "state"))
    with (
        device(tmp_path, "a", *state) as first_device,
        device(tmp_path, "b"),
        leaving(tmp_path, "--workload", "web") as here,
        waiting(tmp_path) as there,
    ):
        assert here.ask("hog", size=4 * MIB)
        here.ask("use_memory", percent=60)
        here.switch(x_ballonet_verify=True)
        here.do("migrate-set-parameters", **{"max-bandwidth": bandwidth})

        def end() -> None:
            first_device.kill()
            for name in ("a", "a.qmp"):
                (tmp_path / name).unlink()

        with Relay(tmp_path / "relay", tmp_path / "in", first(Pages, end)) as relay:
            here.do("migrate", uri=relay.uri)
            wait_until(lambda: not first_device.is_alive(), PATIENCE_S, "it is not killed")
            with device(tmp_path, "a", *state):
                answer = here.over()
                if answer["status"] != "completed":
                    assert answer["error-desc"].count("\n") == 0
                    assert has_given_up(there)
                assert here.log() == []
                guest = there if answer["status"] == "completed" else here
                assert guest.ask("release_hogs") == 1
                assert guest.status() == "running"
