"""When to wake the other side, against counting."""

from hypothesis import given
from hypothesis import strategies as st

from ballonet.virtio.ring.notify import wants_event

index = st.integers(0, 0xFFFF)


@given(index, st.integers(0, 300), st.one_of(st.integers(-5, 305), index))
def test_an_event_is_wanted_when_one_of_the_steps_passes_it(
    old: int, steps: int, event_after: int
) -> None:
    event = (old + event_after) & 0xFFFF
    passed = {(old + step) & 0xFFFF for step in range(steps)}
    assert wants_event(event, (old + steps) & 0xFFFF, old) == (event in passed)
