"""What an operator should know at once: the law cannot mend it.

Units: in the names of the figures.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple

from ballonet.autopilot.budget import Budget, HostState
from ballonet.autopilot.claims import Standing
from ballonet.autopilot.distress import Signal
from ballonet.autopilot.record import VmRecord
from ballonet.autopilot.vm_state import MAY_GIVE, VmState
from ballonet.units import format_bytes

__all__ = ["Alarm", "AlarmKind", "alarms_of"]


class AlarmKind(Enum):
    """What is wrong."""

    INFEASIBLE = "infeasible"  #: the floors are more than there is
    SHORTAGE = "shortage"  #: more is used than there is
    HOST_SHORT = "host_short"  #: the reserve is touched
    LOST = "lost"
    STUCK = "stuck"
    LIES = "lies"
    SELF_DEFLATED = "self_deflated"


class Alarm(NamedTuple):
    """One of them."""

    kind: AlarmKind
    vm: str  #: empty: the host
    text: str


def alarms_of(
    records: Mapping[str, VmRecord],
    standings: Mapping[str, Standing],
    budget: Budget,
) -> tuple[Alarm, ...]:
    """Everything that is wrong in this round."""
    return (*_of_host(standings, budget), *_of_vms(records))


def _of_host(standings: Mapping[str, Standing], budget: Budget) -> list[Alarm]:
    found = []
    least_bytes = sum(
        one.least_bytes
        if one.record.state in MAY_GIVE
        else max(one.least_bytes, one.may_touch_bytes)
        for one in standings.values()
    )
    over_bytes = least_bytes - budget.budget_bytes
    if standings and over_bytes > 0:
        text = (
            f"the least that the VMs keep is {format_bytes(over_bytes)} more than there is: lower"
            " their minimum, move one to another host, or stop one"
        )
        found.append(Alarm(AlarmKind.INFEASIBLE, "", text))
    use_bytes = sum(one.need.use_bytes for one in standings.values())
    suffers = any(one.record.is_distressed for one in standings.values())
    if suffers and use_bytes > budget.budget_bytes:
        text = (
            f"the VMs use {format_bytes(use_bytes - budget.budget_bytes)} more than there is: some"
            " of them will swap, or kill processes"
        )
        found.append(Alarm(AlarmKind.SHORTAGE, "", text))
    if budget.state is not HostState.GREEN:
        text = (
            f"the host has {format_bytes(budget.available_bytes or 0)} available, and should keep"
            f" {format_bytes(budget.reserve_bytes)}"
        )
        found.append(Alarm(AlarmKind.HOST_SHORT, "", text))
    return found


def _of_vms(records: Mapping[str, VmRecord]) -> list[Alarm]:
    found = []
    for vm, one in records.items():
        if one.state is VmState.LOST:
            text = f"{vm} cannot be reached, and may use {format_bytes(one.holding.charged_bytes)}"
            found.append(Alarm(AlarmKind.LOST, vm, f"{text}: {one.note}"))
        if one.state is VmState.STUCK:
            text = f"{vm} does not give memory back, {one.progress.failures} times in a row"
            found.append(Alarm(AlarmKind.STUCK, vm, text))
        if one.answer.refusal is not None:
            text = f"what the guest of {vm} says cannot be: {one.answer.refusal.value}"
            found.append(Alarm(AlarmKind.LIES, vm, text))
        if Signal.SELF_DEFLATED in one.signals:
            text = f"the kernel of {vm} took memory out of its balloon, which no budget gave"
            found.append(Alarm(AlarmKind.SELF_DEFLATED, vm, text))
    return found
