"""Tasks wait for what they said they wait for, and for nothing else."""

from __future__ import annotations

from ballonet.kernel.tasks import Flag, Job, Scheduler, Sleep


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
