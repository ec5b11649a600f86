"""Every metric by its name, type and labels, for the documents; and those that no row has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from ballonet.agent.autopilot.metrics import ALL_ROWS
from ballonet.agent.autopilot.waits import HISTOGRAMS
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
)

__all__ = [
    "BUILD",
    "CONFIGURATION_UP",
    "DURATION",
    "INFO",
    "MACHINES",
    "VM_LABELS",
    "Family",
    "all_families",
]


class Family(NamedTuple):
    """A metric, whatever series it has."""

    name: str
    type: str
    labels: tuple[str, ...]
    meaning: str


VM_LABELS: Final = ("vm", "kind")
INFO: Final = Family(
    "ballonet_vm_info", "info", (*VM_LABELS, "uri", "pid"), "Where it is reached, and its process."
)
BUILD: Final = Family("ballonet_build_info", "info", ("version", "python"), "The program.")
DURATION: Final = Family(
    "ballonet_agent_round_duration_seconds", "histogram", (), "How long rounds took."
)
MACHINES: Final = Family(
    "ballonet_agent_machines", "gauge", ("kind",), "Machines that are watched."
)
CONFIGURATION_UP: Final = Family(
    "ballonet_agent_configuration_up",
    "gauge",
    (),
    "The configuration file was taken when it was last read.",
)


def all_families() -> Iterator[Family]:
    """Every metric, in the order of the documents."""
    yield INFO
    for rows in (ALWAYS_ROWS, VM_ROWS, AGE_ROWS, STATISTIC_ROWS, PEAK_ROWS, DEVICE_ROWS):
        yield from (_family(row, VM_LABELS) for row in rows)
    seen: set[str] = set()
    for row in HOST_ROWS:
        if row.name not in seen:
            yield _family(row)
        seen.add(row.name)
    yield from (_family(row) for row in AGENT_ROWS)
    yield from (Family(row.name, row.type, row.labels, row.meaning) for row in ALL_ROWS)
    yield from (Family(name, "histogram", (), meaning) for name, meaning in HISTOGRAMS.items())
    yield from (DURATION, MACHINES, CONFIGURATION_UP, BUILD)


def _family(row: MetricRow[Any], labels: tuple[str, ...] = ()) -> Family:
    kind = "counter" if row.is_counter else "gauge"
    return Family(row.name, kind, (*labels, *row.labels), row.meaning)
