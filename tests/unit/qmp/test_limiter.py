"""At most one event a second of a kind, and never the last one lost."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from ballonet.qmp.limiter import Event, EventLimiter

MS = 1_000_000


def event(number: int, name: str = "BALLOON_CHANGE") -> Event:
    return Event(name, {"actual": number}, number)


def test_the_first_goes_at_once_and_of_those_within_a_second_the_last() -> None:
    limiter = EventLimiter()
    assert limiter.put(event(0), 0) == event(0)
    for ms in (1, 500, 999):
        assert limiter.put(event(ms), ms * MS) is None
    assert limiter.due(999 * MS) == []
    assert limiter.deadline_ns == 1000 * MS
    assert limiter.due(1000 * MS) == [event(999)]
    assert limiter.put(event(1001), 1001 * MS) is None
    assert limiter.due(2000 * MS) == [event(1001)]
    assert limiter.due(3000 * MS) == []
    assert limiter.deadline_ns is None
    assert limiter.put(event(3001), 3001 * MS) == event(3001)


def test_kinds_do_not_wait_for_each_other() -> None:
    limiter = EventLimiter()
    assert limiter.put(event(1), 0)
    assert limiter.put(event(1, "other"), 1)


@given(st.lists(st.integers(0, 700), min_size=1, max_size=60))
def test_events_are_a_second_apart_and_the_last_value_arrives(gaps_ms: list[int]) -> None:
    limiter, now, out = EventLimiter(), 0, []
    for number, gap in enumerate(gaps_ms):
        end = now + gap * MS
        while limiter.deadline_ns is not None and limiter.deadline_ns <= end:
            now = limiter.deadline_ns
            out += [(now, e) for e in limiter.due(now)]
        now = end
        sent = limiter.put(event(number), now)
        out += [(now, sent)] if sent else []
    while limiter.deadline_ns is not None:
        now = limiter.deadline_ns
        out += [(now, e) for e in limiter.due(now)]
    times = [at for at, _ in out]
    assert all(b - a >= 1000 * MS for a, b in pairwise(times))
    assert out[-1][1] == event(len(gaps_ms) - 1)
