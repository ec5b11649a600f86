"""The table of a VM's states, against the rules in sentences."""

from __future__ import annotations

from itertools import product

import pytest

from ballonet.autopilot.vm_state import MAY_GET, MAY_GIVE, VmEvent, VmState, next_state

_S, _E = VmState, VmEvent


def by_rules(state: VmState, event: VmEvent) -> VmState:
    """As one would say it: what comes from outside counts always, the rest by its state."""
    outside = {_E.NO_ANSWER: _S.LOST, _E.LEFT_ALONE: _S.EXCLUDED, _E.NEW_KERNEL: _S.BOOT}
    if event in outside:
        return outside[event]
    if event is _E.NO_STATISTICS:
        silent = {_S.UNKNOWN, _S.BOOT, _S.STUCK, _S.STALE}
        return state if state in silent else _S.STALE
    if state is _S.BOOT:
        return _S.PROBE if event is _E.BOOTED else state
    if state is _S.STUCK:  # only giving, or time, makes it movable
        return {_E.GAVE: _S.STEADY, _E.RETRY: _S.PROBE}.get(event, state)
    if event in {_E.BOOTED, _E.RETRY}:
        return state
    by_event = {_E.NO_PROGRESS: _S.STUCK, _E.SUFFERS: _S.PRESSURE, _E.UNPROVEN: _S.PROBE}
    return by_event.get(event, _S.STEADY)


@pytest.mark.parametrize(("state", "event"), list(product(VmState, VmEvent)))
def test_every_cell_follows_the_rules(state: VmState, event: VmEvent) -> None:
    assert next_state(state, event) is by_rules(state, event)


def test_nothing_is_taken_in_any_state_but_two() -> None:
    assert {_S.PROBE, _S.STEADY} == MAY_GIVE


def test_nothing_is_sent_to_a_vm_that_is_unknown_lost_or_excluded() -> None:
    assert set(VmState) - MAY_GET == {_S.UNKNOWN, _S.LOST, _S.EXCLUDED}
