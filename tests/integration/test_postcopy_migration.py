"""A guest goes on at its destination before its memory is there, and never sees a wrong page.

Real processes; whatever breaks or is killed, it waits, goes on with its own memory, or is ended.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any, Self

import numpy as np
import pytest
from tests.integration.moving_guests import (
    MIB,
    PAGE,
    MovingGuest,
    Relay,
    device,
    kill,
    resize,
)
from tests.support.programs import wait_for_listener
from tests.support.wait import PATIENCE_S, holds, wait_until

from ballonet.errors import MigrationError, StreamError
from ballonet.migration.framing import RecordReader, RecordWriter
from ballonet.migration.receiver import receive_record
from ballonet.migration.records import (
    BACKWARD,
    Begin,
    End,
    Failed,
    Go,
    GuestRegion,
    Pages,
    Postcopy,
    Record,
    State,
)
from ballonet.migration.rendezvous import connect

SIZE = 64 * MIB
HOG = 24 * MIB
#: Bytes a second of what nobody waits for: after the first 256 KiB nothing for a long time.
HARDLY_ANY = 4096
#: So few that not all has been sent when the guest goes on, however long that takes to load.
FEW = 2 * MIB


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with a device to leave, `a`, and one to come to, `b`."""
    path = tmp_path_factory.mktemp("p")
    with device(path, "a"), device(path, "b"):
        yield path


@contextmanager
def leaving(path: Path, *options: str, name: str = "a", **parameters: int) -> Iterator[MovingGuest]:
    """A guest that goes as soon as it may, with a hog that is still to come then."""
    options = ("--memory", "64M", "--poison", "0", *options)
    with MovingGuest(path, f"from-{name}", path / name, *options) as guest:
        assert guest.ask("hog", size=HOG)
        guest.switch(postcopy_ram=True)
        named = {name.replace("_", "-"): value for name, value in parameters.items()}
        guest.do("migrate-set-parameters", **{"x-ballonet-timeout": 1, **named})
        yield guest


@contextmanager
def waiting(path: Path, name: str = "b", where: str = "in") -> Iterator[MovingGuest]:
    """A machine that waits for a guest, at `in`."""
    options = ("--memory", "64M", "--poison", "0", "--incoming", f"unix:{path}/{where}")
    with MovingGuest(path, f"at-{name}", path / name, *options) as guest:
        wait_for_listener(path / where)
        yield guest


def wait_for_status(guest: MovingGuest, *statuses: str) -> dict[str, Any]:
    """Until its migration has come so far."""

    def reached() -> dict[str, Any] | None:
        answer: dict[str, Any] = guest.do("query-migrate")
        return answer if answer.get("status") in statuses else None

    return wait_until(reached, PATIENCE_S, f"it does not become {statuses}")


def completed(here: MovingGuest, there: MovingGuest) -> dict[str, Any]:
    """All is there, on both sides, and every mark is right."""
    answer = wait_for_status(here, "completed", "failed", "postcopy-paused")
    assert answer["status"] == "completed", (answer, there.log())
    wait_for_status(there, "completed")
    assert there.ask("release_hogs") == 1
    assert there.status() == "running"
    assert here.status() == "postmigrate"
    wait_until(lambda: not there.engines(), PATIENCE_S, "those that received are still there")
    assert not is_watched(there)
    return answer


def is_watched(guest: MovingGuest) -> bool:
    """Accesses to its memory are still noticed, by `um` or `uw`."""
    lines = Path(f"/proc/{guest.pid}/smaps").read_text().splitlines()
    flags = [line.split()[1:] for line in lines if line.startswith("VmFlags")]
    return any({"um", "uw"} & {*one} for one in flags)


class Cut:
    """Breaks a relay at a record, counted from one of a kind; or does something there."""

    def __init__(
        self, kind: type[Record], after: int = 0, do: Callable[[], None] | None = None
    ) -> None:
        self._kind, self._left, self._do = kind, after, do
        self._is_counting = self.is_done = False
        self.seen: list[Record] = []

    def __call__(self, _: int, record: Record) -> None:
        self.seen.append(record)
        self._is_counting |= isinstance(record, self._kind)
        if not self._is_counting or self.is_done:
            return
        if self._left:
            self._left -= 1
            return
        self.is_done = True
        if self._do is None:
            raise ConnectionError("as told")
        self._do()


def test_a_guest_under_work_goes_before_its_memory(tmp_path: Path) -> None:
    work = ("--workload", "web", "--speed", "20")
    with (
        device(tmp_path, "a"),
        device(tmp_path, "b"),
        leaving(tmp_path, *work) as here,
        waiting(tmp_path) as there,
    ):
        resize(tmp_path / "a", here, 4 * MIB)
        assert there.status() == "inmigrate"
        seen = Cut(End, do=lambda: None)
        with Relay(tmp_path / "relay", tmp_path / "in", seen) as relay:
            here.do("migrate", uri=relay.uri)
            answer = completed(here, there)
        followed = seen.seen[[isinstance(one, Go) for one in seen.seen].index(True) :]
        assert sum(isinstance(one, Pages) for one in followed) > 10
        assert answer["x-ballonet-note"] == (
            "free page hints do nothing with post-copy: all is sent"
        )
        assert answer["ram"]["x-ballonet-hinted"] == 0
        assert answer["ram"]["postcopy-bytes"] > HOG // 2
        assert "cpu-throttle-percentage" not in answer
        faults = there.ask("vmstat")["pgfault"]
        message = "the work does not go on"
        wait_until(lambda: there.ask("vmstat")["pgfault"] > faults, PATIENCE_S, message)
        resize(tmp_path / "b", there, 8 * MIB)
        resize(tmp_path / "b", there, 0)
        assert there.ask("hog", size=8 * MIB)
        assert there.ask("release_hogs") == 1


def test_a_guest_that_is_called_goes_after_its_first_pass(road: Path) -> None:
    with (
        leaving(road, "--workload", "web", x_ballonet_timeout=0, downtime_limit=0) as here,
        waiting(road) as there,
    ):
        seen = Cut(State, do=lambda: None)
        with Relay(road / "relay", road / "in", seen) as relay:
            here.do("migrate", uri=relay.uri)
            here.do("migrate-start-postcopy")
            completed(here, there)
        assert any(isinstance(one, Postcopy) for one in seen.seen)


def test_a_guest_that_may_go_early_and_need_not_arrives_whole(road: Path) -> None:
    with leaving(road, x_ballonet_timeout=0) as here, waiting(road) as there:
        here.do("migrate", uri=f"unix:{road}/in")
        answer = completed(here, there)
        assert answer["ram"]["postcopy-bytes"] == 0
        assert not (road / "in").exists()


def test_post_copy_is_begun_only_where_it_was_agreed_on(road: Path) -> None:
    with leaving(road) as here:
        after = "Postcopy must be started after migration has been started"
        assert here.refused("migrate-start-postcopy") == after
        here.switch(postcopy_ram=False)
        before = "Enable postcopy with migrate_set_capability before the start of migration"
        assert here.refused("migrate-start-postcopy") == before
        nothing = "there is no migration that waits to be resumed"
        assert here.refused("migrate", uri="unix:elsewhere", resume=True) == nothing
        here.switch(postcopy_ram=True)
        here.do("migrate", uri=f"file:{road}/image")
        assert "needs a destination that asks" in wait_for_status(here, "failed")["error-desc"]
        here.switch(x_ballonet_verify=True)
        with waiting(road) as there:
            here.do("migrate", uri=f"unix:{road}/in")
            assert "cannot be compared" in wait_for_status(here, "failed")["error-desc"]
            code, lines = there.ended()
            assert (code, len(lines)) == (1, 2)
        assert here.status() == "running"
        assert here.ask("release_hogs") == 1


def test_what_somebody_waits_for_comes_while_nothing_else_does(road: Path) -> None:
    """And all of the device works: its rings are there from the start."""
    with leaving(road, max_postcopy_bandwidth=HARDLY_ANY) as here, waiting(road) as there:
        here.do("migrate", uri=f"unix:{road}/in")
        before = wait_for_status(here, "postcopy-active")["ram"]
        assert there.ask("release_hogs") == 1
        message = "what the guest waited for was not asked for"
        wait_until(lambda: requests(here) > HOG // PAGE // 2, PATIENCE_S, message)
        resize(road / "b", there, 2 * MIB)
        resize(road / "b", there, 0)
        assert there.ask("hog", size=MIB)
        assert there.ask("release_hogs") == 1
        assert here.do("query-migrate")["status"] == "postcopy-active"
        assert before["remaining"] > here.do("query-migrate")["ram"]["remaining"] > 0
        gone = "the guest has gone in post-copy"
        assert gone in here.refused("migrate_cancel")
        assert gone in here.refused("migrate-start-postcopy")
        not_whole = "the guest's memory is not all here yet"
        assert there.refused("migrate", uri="unix:elsewhere") == not_whole
        assert there.refused("calc-dirty-rate", **{"calc-time": 1}) == not_whole
        assert there.do("query-migrate")["status"] == "postcopy-active"
        assert there.do("query-migrate")["ram"]["remaining"] > 0


CUTS = [(Go, 0), (Go, 1), (Go, 2), (Go, 9), (End, 0)]


@pytest.mark.parametrize(("kind", "after"), CUTS)
def test_a_channel_that_breaks_at_any_record_costs_no_page(
    road: Path, kind: type[Record], after: int
) -> None:
    few = 0 if kind is End else FEW
    with (
        leaving(road, "--workload", "web", max_postcopy_bandwidth=few) as here,
        waiting(road) as there,
    ):
        cut = Cut(kind, after)
        with Relay(road / "relay", road / "in", cut) as relay:
            here.do("migrate", uri=relay.uri)
            answer = wait_for_status(here, "postcopy-paused")
        assert "\n" not in answer["error-desc"]
        assert here.status() == "postmigrate"
        assert "moved" in here.refused("cont")
        assert "moved" in here.refused("migrate", uri="unix:elsewhere")
        wait_until(lambda: len(there.log()) > 1, PATIENCE_S, "the destination says nothing")
        assert "post-copy is interrupted" in "".join(there.log())
        resumed(here, road)
        completed(here, there)
        assert sum("the source is there again" in line for line in there.log()) == 1


@pytest.mark.parametrize(("kind", "after"), [(Postcopy, 0), (State, 0)])
def test_a_channel_that_breaks_before_the_guest_has_left_leaves_it_here(
    road: Path, kind: type[Record], after: int
) -> None:
    with leaving(road, "--workload", "web") as here:
        with waiting(road) as there:
            stop = Cut(kind, after, lambda: os.kill(there.pid, signal.SIGSTOP))
            cut = Cut(kind, after + 1)

            def watch(number: int, record: Record) -> None:
                stop(number, record)  # so that it does not load the guest too early
                cut(number, record)

            with Relay(road / "relay", road / "in", watch) as relay:
                here.do("migrate", uri=relay.uri)
                assert wait_for_status(here, "failed", "postcopy-paused")["status"] == "failed"
            os.kill(there.pid, signal.SIGCONT)
            code, lines = there.ended()
            assert (code, len(lines)) == (1, 2), lines
        assert here.status() == "running"
        assert here.ask("release_hogs") == 1
        assert not is_watched(here)


def test_a_guest_waits_for_its_source_as_often_as_that_is_lost(road: Path) -> None:
    with (
        leaving(road, max_postcopy_bandwidth=HARDLY_ANY) as here,
        waiting(road) as there,
        Asked(there, "release_hogs") as asked,
    ):
        resume = False
        for after in (3, 40, 400, 3):
            with Relay(road / "relay", road / "in", Cut(Pages if resume else Go, after)) as relay:
                here.do("migrate", uri=relay.uri, resume=resume)
                if not resume:
                    wait_for_status(here, "postcopy-active")
                    asked.begin()
                wait_for_status(here, "postcopy-paused")
            assert holds(lambda: not asked.has_answer, 0.1)
            resume = True
        here.do("migrate-set-parameters", **{"max-postcopy-bandwidth": 0})
        here.do("migrate", uri=f"unix:{road}/in", resume=True)
        assert asked.answer() == 1
        wait_for_status(here, "completed")
        wait_for_status(there, "completed")


class Asked:
    """A question to a guest that cannot answer yet; a context manager."""

    def __init__(self, guest: MovingGuest, what: str) -> None:
        self._answers: list[Any] = []
        self._thread = Thread(target=lambda: self._answers.append(guest.ask(what)), daemon=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def begin(self) -> None:
        self._thread.start()

    @property
    def has_answer(self) -> bool:
        return bool(self._answers)

    def answer(self) -> object:
        self._thread.join(PATIENCE_S)
        (answer,) = self._answers
        return answer


def test_every_page_arrives_as_the_guest_that_was_stopped_has_it(road: Path) -> None:
    """It stands still at both ends, over three channels."""
    with (
        leaving(road, "--workload", "batch", max_postcopy_bandwidth=FEW) as here,
        waiting(road) as there,
    ):
        here.ask("use_memory", percent=50)
        here.do("stop")
        resume = False
        for kind, after in ((Go, 5), (Pages, 20)):
            with Relay(road / "relay", road / "in", Cut(kind, after)) as relay:
                here.do("migrate", uri=relay.uri, resume=resume)
                wait_for_status(here, "postcopy-paused")
            resume = True
        resumed(here, road)
        wait_for_status(here, "completed")
        wait_for_status(there, "completed")
        assert there.status() == "paused"
        assert pages_that_differ(here, there) == 0
        there.do("cont")
        completed(here, there)


def pages_that_differ(here: MovingGuest, there: MovingGuest) -> int:
    fds = [guest.named_file("ballonet-guest") for guest in (here, there)]
    pages = [np.frombuffer(os.pread(fd, SIZE, 0), np.uint64) for fd in fds]
    for fd in fds:
        os.close(fd)
    assert pages[0].any()
    return int((pages[0] != pages[1]).reshape(-1, PAGE // 8).any(axis=1).sum())


def receivers(there: MovingGuest) -> tuple[int, int]:
    """The process that makes those that receive, and the one that does."""

    def found() -> tuple[int, int] | None:
        (parent,) = there.engines()
        children = map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split())
        living = [pid for pid in children if not is_gone(pid)]
        return (parent, living[0]) if living else None

    return wait_until(found, PATIENCE_S, "nobody receives")


def going(here: MovingGuest, there: MovingGuest, road: Path) -> None:
    """The guest goes on there, and hardly anything follows it."""
    here.do("migrate", uri=f"unix:{road}/in")
    wait_until(lambda: there.status() == "running", PATIENCE_S, "it does not go on there")


def resumed(here: MovingGuest, road: Path) -> None:
    """Its source comes again, and sends as fast as it can."""
    wait_for_status(here, "postcopy-paused")
    here.do("migrate-set-parameters", **{"max-postcopy-bandwidth": 0})
    here.do("migrate", uri=f"unix:{road}/in", resume=True)


def test_an_engine_that_is_killed_is_followed_by_another_one(road: Path) -> None:
    with (
        leaving(road, "--workload", "web", max_postcopy_bandwidth=HARDLY_ANY) as here,
        waiting(road) as there,
    ):
        going(here, there, road)
        (engine,) = here.engines()
        kill(engine)
        answer = wait_for_status(here, "postcopy-paused")
        assert answer["error-desc"] == "the engine of the migration is gone"
        resumed(here, road)
        completed(here, there)


def test_whoever_receives_and_is_killed_is_followed_by_another_one(road: Path) -> None:
    with (
        leaving(road, "--workload", "web", max_postcopy_bandwidth=HARDLY_ANY) as here,
        waiting(road) as there,
        Asked(there, "release_hogs") as asked,
    ):
        going(here, there, road)
        asked.begin()
        before = 0
        for bandwidth in (HARDLY_ANY, HARDLY_ANY, HARDLY_ANY, 0):
            message = "nothing is asked for"
            wait_until(lambda: requests(here) > before, PATIENCE_S, message)  # noqa: B023
            _, receiver = receivers(there)
            kill(receiver)
            wait_for_status(here, "postcopy-paused")
            message = "nobody takes over"
            wait_until(lambda: receivers(there)[1] != receiver, PATIENCE_S, message)  # noqa: B023
            before = requests(here)
            here.do("migrate-set-parameters", **{"max-postcopy-bandwidth": bandwidth})
            here.do("migrate", uri=f"unix:{road}/in", resume=True)
        assert asked.answer() == 1
        wait_for_status(here, "completed")
        wait_for_status(there, "completed")
        assert there.status() == "running"
        assert sum("was killed" in line for line in there.log()) == 4


def requests(here: MovingGuest) -> int:
    return int(here.do("query-migrate")["ram"]["postcopy-requests"])


def test_nobody_needs_the_one_that_makes_those_that_receive(road: Path) -> None:
    with (
        leaving(road, max_postcopy_bandwidth=8 * MIB) as here,
        waiting(road) as there,
    ):
        end = Cut(Go, 1, lambda: kill(receivers(there)[0]))
        with Relay(road / "relay", road / "in", end) as relay:
            here.do("migrate", uri=relay.uri)
            completed(here, there)
        assert end.is_done


def test_a_guest_that_nobody_receives_for_any_more_is_ended_in_one_line(road: Path) -> None:
    with leaving(road, max_postcopy_bandwidth=HARDLY_ANY) as here, waiting(road) as there:
        going(here, there, road)
        for pid in receivers(there):
            kill(pid)
        code, lines = there.ended()
        assert code == 1
        assert len(lines) == 3
        assert lines[-1] == (
            "ballonet: the guest is lost: the processes that receive the guest's memory are gone"
        )
        wait_for_status(here, "postcopy-paused")
        here.do("migrate", uri=f"unix:{road}/in", resume=True)
        assert "in: No such file" in wait_for_status(here, "postcopy-paused")["error-desc"]
        assert here.status() == "postmigrate"


def test_a_machine_that_ends_after_its_guest_has_left_takes_no_page_along(road: Path) -> None:
    ends: list[Callable[[MovingGuest], object]] = [MovingGuest.kill, lambda one: one.do("quit")]
    for end in ends:
        with leaving(road, max_postcopy_bandwidth=8 * MIB) as here, waiting(road) as there:
            here.do("query-status")
            left = Cut(Go, 1, lambda end=end, here=here: end(here))  # type: ignore[misc]
            with Relay(road / "relay", road / "in", left) as relay:
                here.do("migrate", uri=relay.uri)
                wait_for_status(there, "completed")
            assert there.ask("release_hogs") == 1
            here.ended()


def test_a_guest_that_ends_in_post_copy_is_told_of_to_its_source(road: Path) -> None:
    with leaving(road, max_postcopy_bandwidth=HARDLY_ANY) as here:
        with waiting(road) as there:
            going(here, there, road)
            parent, receiver = receivers(there)
            there.kill()
        answer = wait_for_status(here, "postcopy-paused")
        assert answer["error-desc"] == "the destination refuses: the guest's machine is gone"
        wait_until(lambda: is_gone(parent) and is_gone(receiver), PATIENCE_S, "they outlive it")
        (road / "in").unlink()


def is_gone(pid: int) -> bool:
    """It has ended, whether or not somebody has waited for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_guest_takes_the_rest_from_its_own_source_alone(road: Path) -> None:
    with leaving(road, max_postcopy_bandwidth=HARDLY_ANY) as here, waiting(road) as there:
        going(here, there, road)
        (engine,) = here.engines()
        kill(engine)
        wait_for_status(here, "postcopy-paused")
        assert answer_to(road, Begin(begin_of(SIZE), True, True, 7)) == (
            "here waits another guest, for the rest of its memory"
        )
        assert answer_to(road, Begin(begin_of(SIZE // 2), True, True, 7)) is not None
        assert answer_to(road, Go()) is None
        with device(road, "c"), leaving(road, name="c") as other:
            other.do("migrate", uri=f"unix:{road}/in")
            answer = wait_for_status(other, "failed")
            assert answer["error-desc"].startswith("the destination refuses: here waits another")
            assert other.ask("release_hogs") == 1
        resumed(here, road)
        completed(here, there)


def begin_of(size: int) -> tuple[GuestRegion, ...]:
    return (GuestRegion(0, size, PAGE),)


def answer_to(road: Path, record: Record) -> str | None:
    """What a destination says to whoever begins like this; None: it hangs up."""
    with connect(f"unix:{road}/in", int(PATIENCE_S)) as channel:
        channel.send(RecordWriter().pack(record))
        try:
            answer = receive_record(channel, RecordReader(BACKWARD))
        except (StreamError, MigrationError):
            return None
        assert isinstance(answer, Failed)
        return answer.reason


def test_a_source_takes_only_its_own_destination_for_it(road: Path) -> None:
    with leaving(road, max_postcopy_bandwidth=HARDLY_ANY) as here, waiting(road) as there:
        going(here, there, road)
        (engine,) = here.engines()
        kill(engine)
        wait_for_status(here, "postcopy-paused")
        with device(road, "c"), waiting(road, "c", "other") as other:
            here.do("migrate", uri=f"unix:{road}/other", resume=True)
            answer = wait_for_status(here, "postcopy-paused")
            assert answer["error-desc"] == "the destination answers READY"
            code, _ = other.ended()
            assert code == 1
        resumed(here, road)
        completed(here, there)


def test_a_guest_that_has_come_so_goes_on_so(road: Path) -> None:
    """By TCP at last, and to where its machine first was."""
    with leaving(road) as here, waiting(road) as there:
        here.do("migrate", uri=f"unix:{road}/in")
        wait_for_status(there, "completed")
        here.kill()
        options = ("--memory", "64M", "--poison", "0", "--incoming", "tcp:127.0.0.1:0")
        with MovingGuest(road, "third", road / "a", *options) as third:
            line = wait_until(third.log, PATIENCE_S, "it does not wait")[0]
            there.switch(postcopy_ram=True)
            there.do("migrate-set-parameters", **{"x-ballonet-timeout": 1})
            there.do("migrate", uri=line.rpartition(" ")[2])
            completed(there, third)
