"""What the autopilot sees and does, for Prometheus: a row for each metric.

Names follow those of the agent.  Units: bytes left to the guest (logical size), seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from ballonet.agent.autopilot.autopilot import Autopilot
from ballonet.autopilot.alarms import AlarmKind
from ballonet.autopilot.claims import Standing
from ballonet.autopilot.law import Step
from ballonet.autopilot.vm_state import VmState

__all__ = ["ALL_ROWS", "AutopilotMetrics", "AutopilotRow"]

Labels = dict[str, str]
Values = Iterator[tuple[Labels, float]]


class AutopilotRow(NamedTuple):
    """One metric and its series."""

    name: str
    type: str
    labels: tuple[str, ...]
    meaning: str
    read: Callable[[Autopilot, Step], Values]


class AutopilotMetrics(Collector):
    """Of what is known at a scrape."""

    def __init__(self, autopilot: Autopilot) -> None:
        self._autopilot = autopilot

    def describe(self) -> tuple[Metric, ...]:
        """Nothing: what there is follows from what is seen."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Every metric, once there was a round."""
        decided = self._autopilot.newest
        if decided is None:
            return
        for row in ALL_ROWS:
            metric = Metric(row.name.removesuffix("_total"), row.meaning, row.type)
            for labels, value in row.read(self._autopilot, decided):
                metric.add_sample(row.name, labels, value)
            yield metric
        for histogram in self._autopilot.waits.histograms.values():
            yield from histogram.collect()


def _of_vms(read: Callable[[Standing], float | None]) -> Callable[[Autopilot, Step], Values]:
    def values(_: Autopilot, decided: Step) -> Values:
        for vm, one in decided.standings.items():
            value = read(one)
            if value is not None:
                yield _vm_labels(vm), value

    return values


def _of_host(read: Callable[[Autopilot, Step], float]) -> Callable[[Autopilot, Step], Values]:
    def values(autopilot: Autopilot, decided: Step) -> Values:
        yield {}, read(autopilot, decided)

    return values


def _vm_labels(vm: str) -> Labels:
    kind, _, name = vm.partition(":")
    return {"vm": name, "kind": kind}


def _used(one: Standing) -> float | None:
    return None if one.record.estimate is None else one.record.estimate.used_bytes


def _need(one: Standing) -> float | None:
    return None if one.record.estimate is None else one.need.cache_bytes


def _states(_: Autopilot, decided: Step) -> Values:
    for vm, one in decided.standings.items():
        for state in VmState:
            yield {**_vm_labels(vm), "state": state.value}, one.record.state is state


def _alarms(_: Autopilot, decided: Step) -> Values:
    for kind in AlarmKind:
        yield {"alarm": kind.value}, sum(one.kind is kind for one in decided.alarms)


def _requests(autopilot: Autopilot, _: Step) -> Values:
    tally = autopilot.tally
    for direction, counts in (("more", tally.raised), ("less", tally.lowered)):
        for reason, count in sorted(counts.items()):
            yield {"direction": direction, "reason": reason}, count


_VM: Final = ("vm", "kind")


def _vm_row(name: str, meaning: str, read: Callable[[Standing], Any]) -> AutopilotRow:
    return AutopilotRow(f"ballonet_autopilot_vm_{name}", "gauge", _VM, meaning, _of_vms(read))


def _host_row(
    name: str, meaning: str, read: Callable[[Autopilot, Step], float], kind: str = "gauge"
) -> AutopilotRow:
    return AutopilotRow(f"ballonet_autopilot_{name}", kind, (), meaning, _of_host(read))


ALL_ROWS: Final = (
    _vm_row("used_bytes", "What the guest uses, of what it keeps.", _used),
    _vm_row("need_bytes", "What it needs: its use, what may come soon, and its cache.", _need),
    _vm_row("floor_bytes", "It is never asked to keep less.", lambda one: one.least_bytes),
    _vm_row(
        "target_bytes",
        "What it was asked to keep.",
        lambda one: one.record.sizes.target_bytes,
    ),
    AutopilotRow(
        "ballonet_autopilot_vm_state",
        "gauge",
        (*_VM, "state"),
        "1 for the state that the machine is in.",
        _states,
    ),
    _host_row("enabled", "What is decided is carried out.", lambda pilot, _: not pilot.is_dry_run),
    _host_row(
        "budget_bytes",
        "What all machines may keep together.",
        lambda _, decided: decided.budget.budget_bytes,
    ),
    _host_row(
        "free_bytes",
        "What of it nobody has; below 0: so much has to come back.",
        lambda _, decided: decided.budget.free_bytes,
    ),
    _host_row(
        "promised_bytes",
        "What machines may touch without asking, and the host does not hold for them yet.",
        lambda _, decided: decided.budget.promised_bytes,
    ),
    _host_row(
        "reserve_bytes",
        "What is kept available for the host.",
        lambda _, decided: decided.budget.reserve_bytes,
    ),
    _host_row(
        "leased_bytes",
        "What is kept free for somebody who is not here yet.",
        lambda pilot, _: pilot.asked.wishes.lease_bytes,
    ),
    AutopilotRow(
        "ballonet_autopilot_alarms",
        "gauge",
        ("alarm",),
        "Machines, or the host, with something that it cannot mend.",
        _alarms,
    ),
    AutopilotRow(
        "ballonet_autopilot_requests_total",
        "counter",
        ("direction", "reason"),
        "Requests for another size, by why.",
        _requests,
    ),
    _host_row(
        "moved_bytes_total",
        "Memory that was asked for or offered.",
        lambda pilot, _: pilot.tally.moved_bytes,
        "counter",
    ),
    _host_row(
        "direction_changes_total",
        "Requests for more memory after one for less, or the other way round.",
        lambda pilot, _: pilot.tally.turns,
        "counter",
    ),
    _host_row(
        "undelivered_total",
        "Requests for memory that did not reach the machine in time.",
        lambda pilot, _: pilot.tally.undelivered,
        "counter",
    ),
    _host_row(
        "step_seconds",
        "Processor time of the newest decision.",
        lambda pilot, _: pilot.tally.step_s,
    ),
)
