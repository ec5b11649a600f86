"""What is served of a round: what is known, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from tests.support.rounds import device, machine, round_of
from tests.support.strange_names import STRANGE_NAMES

from ballonet.agent.autopilot.metrics import ALL_ROWS
from ballonet.agent.autopilot.waits import HISTOGRAMS
from ballonet.agent.metric_families import all_families
from ballonet.agent.metrics import Metrics
from ballonet.balloon.counters import COUNTERS
from ballonet.virtio.stats import STATS
from ballonet.vms.discovery import Found
from ballonet.vms.observation import HostMemory

MIB: Final = 1 << 20

Series = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


def served(metrics: Metrics) -> Series:
    """Every series, by name and labels; read by the parser of Prometheus's own client."""
    found = {}
    for family in text_string_to_metric_families(generate_latest(metrics.registry).decode()):
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found, "Prometheus refuses a scrape in which a series comes twice"
            found[key] = sample.value
    return found


def names(series: Series, vm: str) -> set[str]:
    return {name for name, labels in series if ("vm", vm) in labels}


def value(series: Series, name: str, **labels: str) -> float:
    return series[name, frozenset(labels.items())]


def shown(*found: Found, problem: str = "") -> Series:
    metrics = Metrics()
    metrics.take(round_of(*found, ended_s=time.monotonic(), problem=problem))
    return served(metrics)


def now(name: str = "web", **look: object) -> Found:
    return machine(name, time.monotonic(), **look)  # type: ignore[arg-type]


def test_every_family_of_the_tables_is_served_of_a_machine_that_tells_everything() -> None:
    counters = {name.replace("_", "-"): 5 for name, _ in COUNTERS}
    metrics = Metrics()
    for at_s in (1.0, 0.0):  # two samples, so that there are rates
        everything = machine(
            "web",
            time.monotonic() - at_s,
            kind="ballonet",
            statistics={row.name: 7 for row in STATS},
            memory_bytes=64 * MIB,
            target_bytes=32 * MIB,
            actual_bytes=48 * MIB,
            host=HostMemory(40 * MIB),
            paused=False,
            has_driver=True,
            poll_interval_s=2,
            stats_last_update_s=1_700_000_000,
            device=device(connected=True, running=True, waiting=3, counters=counters),
        )
        metrics.take(round_of(everything, ended_s=time.monotonic()))
    series = served(metrics)
    wanted = {family.name for family in all_families() if "psi" not in family.name}
    wanted |= {"ballonet_agent_round_duration_seconds_count"}
    wanted -= {"ballonet_agent_round_duration_seconds"}
    wanted -= {row.name for row in ALL_ROWS} | HISTOGRAMS.keys()  # served by the autopilot
    assert wanted <= {name for name, _ in series}
    of = {"vm": "web", "kind": "ballonet"}
    assert value(series, "ballonet_vm_memory_bytes", **of) == 64 * MIB
    assert value(series, "ballonet_vm_actual_bytes", **of) == 48 * MIB
    assert value(series, "ballonet_vm_target_bytes", **of) == 32 * MIB
    assert value(series, "ballonet_vm_host_held_bytes", **of) == 40 * MIB
    assert value(series, "ballonet_vm_guest_swap_in_bytes_total", **of) == 7
    assert value(series, "ballonet_vm_guest_free_memory_bytes", **of) == 7
    assert value(series, "ballonet_vm_device_inflated_pages_total", **of) == 5
    assert value(series, "ballonet_vm_device_waiting_bytes", **of) == 3
    info = {"uri": "/run/ballonet/web", "pid": "7"}
    assert value(series, "ballonet_vm_info", **of, **info) == 1


def test_what_is_not_known_is_absent_and_never_zero() -> None:
    series = shown(now())
    assert names(series, "web") == {
        "ballonet_vm_up",
        "ballonet_vm_info",
        "ballonet_vm_observation_age_seconds",
        "ballonet_vm_problem",
    }


def test_what_is_known_to_be_zero_is_zero() -> None:
    series = shown(now(paused=False, has_driver=False, statistics={"swap_in": 0}))
    of = {"vm": "web", "kind": "qemu"}
    for name in ("paused", "driver", "guest_swap_in_bytes_total", "guest_stats_age_seconds"):
        assert value(series, f"ballonet_vm_{name}", **of) == pytest.approx(0, abs=30)


def test_a_machine_that_is_gone_vanishes_from_the_next_scrape() -> None:
    metrics = Metrics()
    metrics.take(round_of(now("web"), now("db"), ended_s=time.monotonic()))
    assert names(served(metrics), "web")
    metrics.take(round_of(now("db"), ended_s=time.monotonic()))
    assert not names(served(metrics), "web")
    assert names(served(metrics), "db")


def test_a_machine_that_is_silent_for_long_has_no_values_any_more() -> None:
    at_s = time.monotonic()
    silent = {"why_not": "it keeps silent", "memory_bytes": 5}
    series = shown(
        machine("short", at_s - 20, **silent),  # type: ignore[arg-type]
        machine("long", at_s - 40, **silent),  # type: ignore[arg-type]
    )
    assert value(series, "ballonet_vm_up", vm="short", kind="qemu") == 0
    assert value(series, "ballonet_vm_memory_bytes", vm="short", kind="qemu") == 5
    assert value(series, "ballonet_vm_up", vm="long", kind="qemu") == 0
    assert value(series, "ballonet_vm_observation_age_seconds", vm="long", kind="qemu") > 39
    assert "ballonet_vm_memory_bytes" not in names(series, "long")


def test_the_age_of_statistics_grows_while_nobody_answers() -> None:
    look = machine("web", time.monotonic() - 20, statistics={"avail": 1}, age_s=5.0, why_not="x")
    age_s = value(shown(look), "ballonet_vm_guest_stats_age_seconds", vm="web", kind="qemu")
    assert age_s >= 25


def test_fifty_strange_names_and_their_doubles_make_a_scrape_that_can_be_read() -> None:
    assert len(STRANGE_NAMES) == 50
    machines = [now(name, pid=pid) for name in STRANGE_NAMES for pid in (7, 7, None)]
    series = shown(*machines)
    assert sum(name == "ballonet_vm_up" for name, _ in series) == 150
    assert value(series, "ballonet_agent_machines", kind="qemu") == 150
    assert value(series, "ballonet_agent_machines", kind="firecracker") == 0


def test_what_a_device_counts_under_other_names_is_not_served() -> None:
    lying = device(counters={"cpu-melted": 3, "inflated-pages": 2})
    found = names(shown(now(device=lying)), "web")
    assert "ballonet_vm_device_inflated_pages_total" in found
    assert not any("melted" in name for name in found)


def test_before_the_first_round_it_is_known_that_it_runs() -> None:
    found = {name for name, _ in served(Metrics())}
    assert {"ballonet_build_info", "process_cpu_seconds_total"} <= found
    assert not any(name.startswith("ballonet_vm") for name in found)


def test_that_machines_cannot_be_found_is_told() -> None:
    assert value(shown(problem="/proc is slow"), "ballonet_agent_discovery_up") == 0
    assert value(shown(), "ballonet_agent_discovery_up") == 1
