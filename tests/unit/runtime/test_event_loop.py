"""The loop of a device's queue thread."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from threading import Thread, get_ident

import pytest

from ballonet.errors import UsageError
from ballonet.runtime.event_loop import EventLoop

SECONDS = 10.0


class Work:
    """Counts how often it is called, and says how often there is more to do."""

    def __init__(self, *, more: int = 0) -> None:
        self.calls, self.more = 0, more
        self.deadline_ns: int | None = None

    def __call__(self) -> bool:
        self.calls += 1
        self.deadline_ns = None
        self.more -= 1
        return self.more >= 0


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


def run(loop: EventLoop) -> None:
    loop.run()
    loop.close()


def test_work_is_called_after_something_was_readable(pipe: tuple[int, int]) -> None:
    work = Work()
    loop = EventLoop(work)
    seen: list[int] = []

    def take() -> None:
        os.read(pipe[0], 1)
        seen.append(work.calls)
        loop.stop()

    loop.register(pipe[0], take)
    os.write(pipe[1], b"x")
    run(loop)
    assert (seen, work.calls) == ([1], 2)


def test_work_is_called_again_while_there_is_more_and_no_longer() -> None:
    work = Work(more=5)
    loop = EventLoop(work)
    thread = Thread(target=run, args=(loop,))
    thread.start()
    while work.more >= 0:
        loop.ask(lambda: None, SECONDS)
    turns, calls = loop.ask(lambda: (loop.turns, work.calls), SECONDS)
    assert loop.ask(lambda: (loop.turns, work.calls), SECONDS) == (turns + 1, calls + 1)
    loop.stop()
    thread.join()


def test_work_is_called_at_the_deadline_and_not_before() -> None:
    begun_ns = time.monotonic_ns()
    deadline_ns = begun_ns + 30_000_000
    called_ns: list[int] = []

    def work() -> bool:
        called_ns.append(time.monotonic_ns())
        if len(called_ns) == 2:
            loop.stop()
        return False

    loop = EventLoop(work, lambda: deadline_ns)
    run(loop)
    assert called_ns[1] >= deadline_ns
    assert loop.turns == 2  # one that waits, one that finds it due


def test_a_loop_with_nothing_to_do_does_not_turn() -> None:
    work = Work()
    loop = EventLoop(work)
    thread = Thread(target=run, args=(loop,))
    thread.start()
    before = loop.ask(lambda: loop.turns, SECONDS)
    after = loop.ask(lambda: loop.turns, SECONDS)  # the question itself takes one turn
    loop.stop()
    thread.join()
    assert after == before + 1


def test_what_is_posted_runs_on_the_thread_of_the_loop_in_order() -> None:
    loop = EventLoop()
    said: list[tuple[str, int]] = []
    loop.post(lambda: said.append(("one", get_ident())))
    loop.post(lambda: said.append(("two", get_ident())))
    loop.post(loop.stop)
    thread = Thread(target=run, args=(loop,))
    thread.start()
    thread.join()
    assert said == [("one", thread.ident), ("two", thread.ident)]


def test_a_question_that_fails_fails_whoever_asked_and_not_the_loop() -> None:
    loop = EventLoop()
    thread = Thread(target=run, args=(loop,))
    thread.start()
    with pytest.raises(ValueError, match="invalid literal"):
        loop.ask(lambda: int("x"), SECONDS)
    assert loop.ask(lambda: 7, SECONDS) == 7
    loop.stop()
    thread.join()
    with pytest.raises(UsageError):
        loop.ask(lambda: 7, SECONDS)


def test_a_question_that_was_asked_too_late_is_told_so_at_once() -> None:
    loop = EventLoop()
    asked: list[BaseException] = []

    def ask() -> None:
        try:
            loop.ask(lambda: 7, 3600)
        except UsageError as error:
            asked.append(error)

    loop.stop()
    loop.run()  # ends before it looks at what is posted
    thread = Thread(target=ask)
    thread.start()
    while not loop.has_questions:
        pass
    loop.close()
    thread.join(SECONDS)
    assert len(asked) == 1


def test_a_descriptor_forgotten_by_a_callback_of_the_same_turn_is_not_served(
    pipe: tuple[int, int],
) -> None:
    loop = EventLoop()
    other = os.dup(pipe[0])
    served: list[int] = []

    def take(fd: int) -> None:
        served.append(fd)
        loop.unregister(pipe[0])
        loop.unregister(other)

    loop.register(pipe[0], lambda: take(pipe[0]))
    loop.register(other, lambda: take(other))
    os.write(pipe[1], b"x")
    loop.turn(SECONDS)
    loop.close()
    os.close(other)
    assert len(served) == 1
