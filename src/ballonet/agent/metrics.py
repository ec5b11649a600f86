"""What is seen, for Prometheus: made anew for each scrape, so that machines that are gone vanish.

The newest round is kept and nothing else; rounds come on the loop's thread, scrapes on others.
Of a machine that does not answer the last known values are shown for half a minute, or five
rounds, and then only that it is not up.
Units: bytes, seconds.
"""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Final, NamedTuple, TypeVar

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

import ballonet
from ballonet.agent.labels import label_text, vm_labels
from ballonet.agent.metric_families import (
    BUILD,
    CONFIGURATION_UP,
    DURATION,
    INFO,
    MACHINES,
    Family,
)
from ballonet.agent.metric_rows import (
    AGE_ROWS,
    AGENT_ROWS,
    ALWAYS_ROWS,
    DEVICE_ROWS,
    HOST_ROWS,
    PEAK_ROWS,
    STATISTIC_ROWS,
    VM_ROWS,
    MetricRow,
    Watched,
)
from ballonet.agent.peaks import Peaks, PeakWindows
from ballonet.agent.round import Round
from ballonet.vms.adapters import ADAPTERS, ANY_QMP
from ballonet.vms.discovery import Found

__all__ = ["Metrics"]

T = TypeVar("T")

_SHOWN_S: Final = 30.0
_SHOWN_ROUNDS: Final = 5
_BUCKETS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

Labels = dict[str, str]


class _Seen(NamedTuple):
    """The newest round, and what stretches over more than one."""

    round: Round
    peaks: Sequence[Peaks]


class Metrics(Collector):
    """A taker of rounds, and a collector of its own `registry`."""

    def __init__(self) -> None:
        self.registry: Final = CollectorRegistry()
        self.configuration_is_taken = True  #: the newest reload, or start, has succeeded
        self._seen: _Seen | None = None
        self._windows = PeakWindows()
        self._durations = Histogram(
            DURATION.name, DURATION.meaning, buckets=_BUCKETS, registry=self.registry
        )
        self.registry.register(self)
        ProcessCollector(registry=self.registry)

    def take(self, one: Round) -> None:
        """The newest round."""
        self._durations.observe(one.duration_s)
        self._seen = _Seen(one, self._windows.see(one.found, one.ended_s))

    def describe(self) -> Iterable[Metric]:
        """Nothing: what there is follows from what is seen."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Every metric that is known."""
        program = {"version": ballonet.__version__, "python": platform.python_version()}
        yield _family(BUILD, [(program, 1)])
        yield _family(CONFIGURATION_UP, [({}, self.configuration_is_taken)])
        seen = self._seen
        if seen is None:
            return
        yield from _families(AGENT_ROWS, [({}, seen.round)])
        counts = _kinds(seen.round.found)
        yield _family(MACHINES, [({"kind": kind}, count) for kind, count in counts.items()])
        yield from _families(HOST_ROWS, [({}, seen.round.host)])
        yield from _of_machines(seen, time.monotonic())


def _of_machines(seen: _Seen, now_s: float) -> Iterator[Metric]:
    found = seen.round.found
    ids = [one.sighting.who for one in found]
    labels: list[Labels] = [
        {"vm": name, "kind": who.kind} for name, who in zip(vm_labels(ids), ids, strict=True)
    ]
    watched = [(label, Watched(one, now_s)) for label, one in zip(labels, found, strict=True)]
    yield from _families(ALWAYS_ROWS, watched)
    yield _family(
        INFO, [({**label, **_way(one)}, 1) for label, one in zip(labels, found, strict=True)]
    )
    shown_s = max(_SHOWN_S, _SHOWN_ROUNDS * seen.round.period_s)
    shown = [
        (label, machine, peaks)
        for (label, machine), peaks in zip(watched, seen.peaks, strict=True)
        if machine.observation_age_s <= shown_s
    ]
    looks = [(label, machine.found.observation) for label, machine, _ in shown]
    yield from _families(VM_ROWS, looks)
    yield from _families(AGE_ROWS, [(label, machine) for label, machine, _ in shown])
    yield from _families(STATISTIC_ROWS, looks)
    yield from _families(PEAK_ROWS, [(label, peaks) for label, _, peaks in shown])
    devices = [(label, look.device) for label, look in looks if look.device is not None]
    yield from _families(DEVICE_ROWS, devices)


def _families(
    rows: Iterable[MetricRow[T]], subjects: Sequence[tuple[Labels, T]]
) -> Iterator[Metric]:
    """A family for each name of which at least one value is known."""
    for name, group in groupby(rows, lambda row: row.name):
        same = list(group)
        values = [
            ({**labels, **row.labels} if row.labels else labels, value)
            for row in same
            for labels, subject in subjects
            if (value := row.read(subject)) is not None
        ]
        if values:
            kind = "counter" if same[0].is_counter else "gauge"
            yield _family(Family(name, kind, (), same[0].meaning), values)


def _family(family: Family, values: Iterable[tuple[Labels, float]]) -> Metric:
    """Labels are shared between families: the client reads them only."""
    name = family.name.removesuffix("_total").removesuffix("_info")
    metric = Metric(name, family.meaning, family.type)
    for labels, value in values:
        metric.add_sample(family.name, labels, value)
    return metric


def _way(one: Found) -> Labels:
    """How a machine is reached, and its process."""
    pid = one.observation.who.pid or one.sighting.who.pid or ""
    return {"uri": label_text(one.sighting.who.uri), "pid": str(pid)}


def _kinds(found: Sequence[Found]) -> Mapping[str, int]:
    """How many there are of each kind; of those that there are none of, too."""
    counts = Counter(one.sighting.who.kind for one in found)
    return {
        kind: counts[kind] for kind in sorted(counts.keys() | ADAPTERS.keys()) if kind != ANY_QMP
    }
