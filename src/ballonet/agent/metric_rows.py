"""Every metric of the agent, a row each: name, type, meaning, and where its value comes from.

Names follow Prometheus: base units, `_total` on what only grows.  A value that is not known is
absent, never 0.  Sizes are of what the guest keeps.  The page of docs/agent.md is made from here.
Units: bytes, seconds, shares of 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Final, Generic, NamedTuple, TypeVar

from ballonet.agent.peaks import PEAKS_WINDOW_S, Peaks
from ballonet.agent.round import Round
from ballonet.balloon.counters import COUNTERS
from ballonet.virtio.stats import STATS, StatRow, StatUnit
from ballonet.vms.device_info import DeviceInfo
from ballonet.vms.discovery import Found
from ballonet.vms.observation import Observation
from ballonet.vms.this_host import HostLook, Pressure

__all__ = [
    "AGENT_ROWS",
    "AGE_ROWS",
    "ALWAYS_ROWS",
    "DEVICE_ROWS",
    "HOST_ROWS",
    "PEAK_ROWS",
    "STATISTIC_ROWS",
    "VM_ROWS",
    "MetricRow",
    "Watched",
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class MetricRow(Generic[T]):
    """One metric; of those with labels of their own, one series."""

    name: str
    meaning: str
    read: Callable[[T], float | None]
    is_counter: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)


class Watched(NamedTuple):
    """A machine, at the moment of a scrape."""

    found: Found
    now_s: float

    @property
    def observation_age_s(self) -> float:
        """Since it was seen like that."""
        return max(0.0, self.now_s - self.found.observation.at_s)

    @property
    def stats_age_s(self) -> float | None:
        """Since the guest has said it."""
        age_s = self.found.observation.stats_age_s
        return None if age_s is None else age_s + self.observation_age_s


#: Of every machine that is found, whether it answers or not.
ALWAYS_ROWS: Final[tuple[MetricRow[Watched], ...]] = (
    MetricRow("ballonet_vm_up", "It answers.", lambda one: not one.found.why_not),
    MetricRow(
        "ballonet_vm_observation_age_seconds",
        "How old what is shown of it is.",
        attrgetter("observation_age_s"),
    ),
)

VM_ROWS: Final[tuple[MetricRow[Observation], ...]] = (
    MetricRow("ballonet_vm_memory_bytes", "All the guest's memory.", attrgetter("memory_bytes")),
    MetricRow(
        "ballonet_vm_target_bytes",
        "What the guest was asked to keep.",
        attrgetter("target_bytes"),
    ),
    MetricRow("ballonet_vm_actual_bytes", "What the guest keeps.", attrgetter("actual_bytes")),
    MetricRow(
        "ballonet_vm_host_held_bytes",
        "What the host holds for the guest's memory, measured.",
        attrgetter("host.held_bytes"),
    ),
    MetricRow("ballonet_vm_paused", "Its processors stand still.", attrgetter("paused")),
    MetricRow(
        "ballonet_vm_driver",
        "A driver uses the balloon; absent: that is not known.",
        attrgetter("has_driver"),
    ),
    MetricRow(
        "ballonet_vm_problem",
        "Something of it has to be mended; `ballonet list` says what.",
        lambda look: look.problem is not None,
    ),
    MetricRow(
        "ballonet_vm_poll_interval_seconds",
        "How often the guest is asked for statistics; 0: it is not.",
        attrgetter("poll_interval_s"),
    ),
    MetricRow(
        "ballonet_vm_guest_stats_timestamp_seconds",
        "When the newest statistics came.",
        attrgetter("stats_last_update_s"),
    ),
    MetricRow(
        "ballonet_vm_guest_usable_memory_bytes",
        "What the guest could use without swapping: its available memory or, of a driver that does"
        " not tell it, what is free and in caches.",
        attrgetter("available_bytes"),
    ),
)

#: In words, what a statistic is.
_STATISTICS: Final[Mapping[str, str]] = {
    "swap_in": "read back from swap",
    "swap_out": "written to swap",
    "majflt": "page faults that had to wait for a disk",
    "minflt": "page faults that had not",
    "memfree": "memory that is not used for anything",
    "memtot": "memory that its kernel manages; with most drivers less the balloon",
    "avail": "memory that it could use without swapping",
    "caches": "memory used for files, which can be had back",
    "htlb_pgalloc": "huge pages that were taken",
    "htlb_pgfail": "huge pages that could not be had",
    "oom_kill": "processes that its kernel killed for want of memory",
    "alloc_stall": "times that a program waited for memory to be reclaimed",
    "async_scan": "memory that its kernel looked at in the background, to reclaim it",
    "direct_scan": "the same, while a program waited",
    "async_reclaim": "memory that it reclaimed in the background",
    "direct_reclaim": "the same, while a program waited",
}


def _statistic(row: StatRow) -> MetricRow[Observation]:
    name = row.qemu_key.removeprefix("stat-").replace("-", "_")
    unit = "_bytes" if row.unit is StatUnit.BYTES else ""
    total = "_total" if row.only_grows else ""

    def read(look: Observation) -> float | None:
        aged = look.statistics.get(row.name)
        return None if aged is None else aged.value

    meaning = f"By the guest's word: {_STATISTICS[row.name]}."
    return MetricRow(f"ballonet_vm_guest_{name}{unit}{total}", meaning, read, row.only_grows)


STATISTIC_ROWS: Final = tuple(_statistic(row) for row in STATS)

_OF_WINDOW: Final = f"of the last {PEAKS_WINDOW_S:.0f} s."
PEAK_ROWS: Final[tuple[MetricRow[Peaks], ...]] = (
    MetricRow(
        "ballonet_vm_guest_lowest_free_memory_bytes",
        f"Least free memory {_OF_WINDOW}",
        attrgetter("lowest_free_bytes"),
    ),
    MetricRow(
        "ballonet_vm_guest_lowest_usable_memory_bytes",
        f"Least usable memory {_OF_WINDOW}",
        attrgetter("lowest_available_bytes"),
    ),
    MetricRow(
        "ballonet_vm_guest_highest_major_faults_per_second",
        f"Most major faults a second, from one sample to the next, {_OF_WINDOW}",
        attrgetter("highest_major_faults_per_s"),
    ),
    MetricRow(
        "ballonet_vm_guest_highest_swap_in_bytes_per_second",
        f"Most that was read back from swap in a second, from one sample to the next, {_OF_WINDOW}",
        attrgetter("highest_swap_in_bytes_per_s"),
    ),
)


def _device_counter(name: str, meaning: str) -> MetricRow[DeviceInfo]:
    return MetricRow(
        f"ballonet_vm_device_{name}_total",
        f"Our device's {name}: {meaning}.",
        lambda device: device.counters.get(name),
        is_counter=True,
    )


DEVICE_ROWS: Final[tuple[MetricRow[DeviceInfo], ...]] = (
    MetricRow("ballonet_vm_device_connected", "A VMM is connected.", attrgetter("connected")),
    MetricRow(
        "ballonet_vm_device_broken",
        "The driver broke the device, which stands still.",
        lambda device: device.broken is not None,
    ),
    MetricRow(
        "ballonet_vm_device_waiting_bytes",
        "In the balloon, to be dropped in a quiet moment.",
        attrgetter("waiting_bytes"),
    ),
    *(_device_counter(name, meaning) for name, meaning in COUNTERS),
)


def _pressure_rows() -> tuple[MetricRow[HostLook], ...]:
    def read(tasks: str, part: str) -> Callable[[HostLook], float | None]:
        def of(host: HostLook) -> float | None:
            pressure: Pressure | None = getattr(host, tasks)
            return None if pressure is None else float(getattr(pressure, part))

        return of

    words = "programs waited for memory: some of them, or all at once"
    ratio, total = "ballonet_host_psi_memory_ratio", "ballonet_host_psi_memory_stalled_seconds"
    windows = {"10s": "avg10", "60s": "avg60"}
    return (
        *(
            MetricRow(
                ratio,
                f"Share of a window in which {words}.",
                read(tasks, part),
                labels={"tasks": tasks, "window": window},
            )
            for tasks in ("some", "full")
            for window, part in windows.items()
        ),
        *(
            MetricRow(
                f"{total}_total",
                f"Time in which {words}, since the boot.",
                read(tasks, "total_s"),
                is_counter=True,
                labels={"tasks": tasks},
            )
            for tasks in ("some", "full")
        ),
    )


HOST_ROWS: Final[tuple[MetricRow[HostLook], ...]] = (
    MetricRow("ballonet_host_memory_bytes", "The host's memory.", attrgetter("total_bytes")),
    MetricRow(
        "ballonet_host_memory_available_bytes",
        "What it could use without swapping.",
        attrgetter("available_bytes"),
    ),
    MetricRow("ballonet_host_swap_bytes", "The host's swap.", attrgetter("swap_total_bytes")),
    MetricRow(
        "ballonet_host_swap_free_bytes", "What of it is free.", attrgetter("swap_free_bytes")
    ),
    *_pressure_rows(),
)


AGE_ROWS: Final[tuple[MetricRow[Watched], ...]] = (
    MetricRow(
        "ballonet_vm_guest_stats_age_seconds",
        "How long ago the guest has said its newest statistics.",
        attrgetter("stats_age_s"),
    ),
)

AGENT_ROWS: Final[tuple[MetricRow[Round], ...]] = (
    MetricRow(
        "ballonet_agent_rounds_total",
        "Rounds of observations.",
        attrgetter("number"),
        is_counter=True,
    ),
    MetricRow(
        "ballonet_agent_round_timestamp_seconds",
        "When the newest round ended.",
        attrgetter("ended_wall_s"),
    ),
    MetricRow(
        "ballonet_agent_period_seconds",
        "Time from one round to the next, as set.",
        attrgetter("period_s"),
    ),
    MetricRow(
        "ballonet_agent_discovery_up",
        "It is known which machines run.",
        lambda one: not one.problem,
    ),
)
