"""What a change of the target waits for, step by step."""

from __future__ import annotations

import pytest
from tests.support.clock import FakeClock

from ballonet.balloon.request import STALLED_AFTER_NS, RequestTimes, Stage, TargetRequest

WANTED = 100


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def request_(clock: FakeClock) -> TargetRequest:
    return TargetRequest(clock)


def stage(request: TargetRequest, actual: int = 0, *, running: bool = True) -> Stage:
    return request.stage(actual, running=running)


def test_without_a_request_nothing_is_waited_for(request_: TargetRequest) -> None:
    assert stage(request_) is Stage.NONE
    assert request_.times == RequestTimes()


def test_a_request_goes_from_stage_to_stage(request_: TargetRequest, clock: FakeClock) -> None:
    request_.ask(WANTED, 0)
    assert stage(request_, running=False) is Stage.NO_DRIVER
    assert stage(request_) is Stage.SENT
    request_.sent()
    assert stage(request_) is Stage.SENT
    request_.read()
    assert stage(request_) is Stage.READ
    clock.advance_ns(STALLED_AFTER_NS)
    assert stage(request_) is Stage.READ
    request_.moved(60)
    assert stage(request_, 60) is Stage.MOVING
    request_.moved(WANTED)
    assert stage(request_, WANTED) is Stage.REACHED
    assert stage(request_, WANTED, running=False) is Stage.REACHED


def test_a_guest_that_only_looks_again_and_again_is_stalled(
    request_: TargetRequest, clock: FakeClock
) -> None:
    request_.ask(WANTED, 0)
    request_.read()
    for _ in range(10):
        clock.advance_ns(STALLED_AFTER_NS // 5)
        request_.read()
    assert stage(request_) is Stage.STALLED


def test_a_move_ends_a_stall_for_a_while(request_: TargetRequest, clock: FakeClock) -> None:
    request_.ask(WANTED, 0)
    request_.read()
    clock.advance_ns(STALLED_AFTER_NS + 1)
    assert stage(request_) is Stage.STALLED
    request_.moved(1)
    assert stage(request_, 1) is Stage.MOVING
    clock.advance_ns(STALLED_AFTER_NS + 1)
    assert stage(request_, 1) is Stage.STALLED


def test_a_guest_that_is_not_told_is_not_called_stalled(
    request_: TargetRequest, clock: FakeClock
) -> None:
    request_.ask(WANTED, 0)
    clock.advance_ns(10 * STALLED_AFTER_NS)
    assert stage(request_) is Stage.SENT


def test_each_step_keeps_the_time_it_happened_at_first(
    request_: TargetRequest, clock: FakeClock
) -> None:
    asked_ns = clock.now_ns()
    request_.ask(WANTED, 0)
    for _ in range(2):
        clock.advance_ns(10)
        request_.sent()
        request_.read()
        request_.moved(WANTED)
    assert request_.times == RequestTimes(
        number=1,
        asked_ns=asked_ns,
        sent_ns=asked_ns + 10,
        read_ns=asked_ns + 10,
        moved_ns=asked_ns + 20,
        reached_ns=asked_ns + 10,
    )


def test_a_balloon_that_leaves_its_target_has_not_reached_it(request_: TargetRequest) -> None:
    request_.ask(WANTED, 0)
    request_.read()
    request_.moved(WANTED)
    request_.moved(WANTED - 1)
    assert request_.times.reached_ns is None
    assert stage(request_, WANTED - 1) is Stage.MOVING


def test_a_newer_request_begins_anew(request_: TargetRequest, clock: FakeClock) -> None:
    request_.ask(WANTED, 0)
    request_.sent()
    request_.read()
    request_.moved(60)
    clock.advance_ns(7)
    request_.ask(0, 60)
    assert request_.times == RequestTimes(number=2, asked_ns=clock.now_ns())
    assert stage(request_, 60) is Stage.SENT


def test_a_target_that_is_there_already_is_reached_at_once(
    request_: TargetRequest, clock: FakeClock
) -> None:
    request_.ask(WANTED, WANTED)
    assert request_.times.reached_ns == clock.now_ns()
    assert stage(request_, WANTED) is Stage.REACHED
