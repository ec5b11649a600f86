"""Tasks wait for what they said they wait for, and for nothing else."""

from __future__ import annotations

from ballonet.kernel.tasks import Flag, Job, Rest, Scheduler, Sleep


def test_a_sleep_ends_when_its_time_has_come() -> None:
    woken: list[int] = []
    scheduler = Scheduler()

    def job() -> Job[None]:
        yield Sleep(100)
        woken.append(scheduler.now_ns)

    scheduler.spawn("sleeper", job())
    scheduler.run(0)
    assert scheduler.deadline_ns == 100
    scheduler.run(99)
    assert not woken
    scheduler.run(100)
    assert woken == [100]
    assert scheduler.deadline_ns is None


def test_a_flag_that_is_set_ends_a_sleep_early_and_the_sleep_ends_no_later_wait() -> None:
    """What once made a driver try again hundreds of times a second."""
    flag, other = Flag(), Flag()
    steps: list[str] = []
    scheduler = Scheduler()

    def job() -> Job[None]:
        yield Sleep(5, flag)
        steps.append("woken")
        yield other
        steps.append("other")

    scheduler.spawn("waiter", job())
    scheduler.run(0)
    flag.set()
    scheduler.run(1)
    assert steps == ["woken"]
    assert scheduler.deadline_ns is None
    scheduler.run(10)
    assert steps == ["woken"]
    other.set()
    scheduler.run(11)
    assert steps == ["woken", "other"]


def test_a_flag_set_late_does_not_end_another_wait() -> None:
    flag = Flag()
    steps: list[int] = []
    scheduler = Scheduler()

    def job() -> Job[None]:
        yield Sleep(5, flag)
        yield Sleep(100)
        steps.append(scheduler.now_ns)

    scheduler.spawn("waiter", job())
    scheduler.run(0)
    scheduler.run(5)
    flag.set()
    scheduler.run(6)
    assert not steps
    scheduler.run(105)
    assert steps == [105]


def test_turns_are_bounded_and_everyone_has_his() -> None:
    order: list[str] = []
    scheduler = Scheduler()

    def job(name: str) -> Job[None]:
        for _ in range(3):
            order.append(name)
            yield None

    scheduler.spawn("a", job("a"))
    scheduler.spawn("b", job("b"))
    assert scheduler.run(0, steps_max=4)
    assert order == ["a", "b", "a", "b"]
    assert not scheduler.run(0)


def test_a_killed_task_runs_no_more_and_is_done() -> None:
    cleaned: list[bool] = []
    scheduler = Scheduler()

    def job() -> Job[None]:
        try:
            yield Flag()
        finally:
            cleaned.append(True)

    task = scheduler.spawn("victim", job())
    scheduler.run(0)
    task.kill()
    assert cleaned
    assert task.done.is_set
    assert not scheduler.run(1)


def test_a_freeze_lets_each_task_come_to_its_rest_and_no_further() -> None:
    steps: list[str] = []
    scheduler, flag = Scheduler(), Flag()

    def job() -> Job[None]:
        while True:
            yield Rest(flag)
            flag.clear()
            steps.append("begun")
            yield Sleep(10)
            steps.append("done")

    scheduler.spawn("worker", job())
    scheduler.run(0)
    flag.set()
    scheduler.run(0)
    scheduler.freeze()
    assert not scheduler.is_frozen
    assert scheduler.restless == ["worker"]
    flag.set()
    scheduler.run(10)
    assert scheduler.is_frozen
    assert steps == ["begun", "done"]
    assert not scheduler.run(100)
    scheduler.thaw()
    scheduler.run(100)
    assert steps == ["begun", "done", "begun"]


def test_while_frozen_time_passes_and_no_task_begins() -> None:
    steps: list[str] = []
    scheduler = Scheduler()

    def sleeper() -> Job[None]:
        yield Rest(until_ns=50)
        steps.append("woken")

    def newcomer() -> Job[None]:
        steps.append("begun")
        yield None

    scheduler.spawn("sleeper", sleeper())
    scheduler.run(0)
    scheduler.freeze()
    scheduler.spawn("newcomer", newcomer())
    scheduler.run(60)
    assert scheduler.is_frozen
    assert not scheduler.can_go_on
    assert scheduler.deadline_ns is None
    assert not steps
    scheduler.thaw()
    scheduler.run(60)
    assert sorted(steps) == ["begun", "woken"]


def test_a_rest_ends_at_its_flag_or_its_time_whatever_is_earlier() -> None:
    scheduler, flag = Scheduler(), Flag()
    woken: list[int] = []

    def job() -> Job[None]:
        for until_ns in (10, 5, 100):
            yield Rest(flag, until_ns)
            woken.append(scheduler.now_ns)

    scheduler.spawn("worker", job())
    scheduler.run(0)
    assert scheduler.deadline_ns == 10
    scheduler.run(10)
    flag.set()
    scheduler.run(20)
    assert woken == [10, 10, 20]


def test_a_task_that_ends_or_is_killed_does_not_disturb_a_freeze() -> None:
    scheduler = Scheduler()

    def job() -> Job[None]:
        yield Sleep(5)

    scheduler.spawn("ends", job())
    victim = scheduler.spawn("victim", job())
    scheduler.run(0)
    scheduler.freeze()
    victim.kill()
    scheduler.run(5)
    assert scheduler.is_frozen
