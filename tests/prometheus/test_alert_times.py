"""When each alert fires and when it does not, as Prometheus's own tool evaluates it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tests.support.prometheus import promtool

RULES = Path(__file__).parents[2] / "packaging" / "prometheus" / "ballonet-alerts.yml"
OF_VM = '{vm="web", kind="qemu", job="ballonet", instance="host:9177"}'
OF_HOST = '{job="ballonet", instance="host:9177"}'
MIB = 1 << 20
MEMORY, HALF = 1024 * MIB, 512 * MIB


class Case(NamedTuple):
    """Series that begin at 0, a value each half minute, and when an alert begins to fire."""

    alert: str
    series: Mapping[str, str]  #: name to values, as promtool writes them
    since: str | None  #: None: it never fires
    not_at: str = "40m"  #: when it does not


def vm(**series: str) -> dict[str, str]:
    return {f"ballonet_vm_{name}{OF_VM}": values for name, values in series.items()}


def host(**series: str) -> dict[str, str]:
    return {f"ballonet_{name}{OF_HOST}": values for name, values in series.items()}


def alarm(kind: str, *, enabled: int) -> dict[str, str]:
    labels = OF_HOST.replace("{", f'{{alarm="{kind}", ')
    return {f"ballonet_autopilot_alarms{labels}": always(1)} | host(
        autopilot_enabled=always(enabled)
    )


def always(value: float) -> str:
    return f"{value}+0x100"


SHORT = {"actual_bytes": always(MEMORY), "guest_usable_memory_bytes": always(50 * MIB)}
STALE = {"guest_stats_age_seconds": "0+30x100", "poll_interval_seconds": always(2)}
GIVEN = {"memory_bytes": always(MEMORY), "actual_bytes": always(HALF)}
STUCK = {"actual_bytes": always(MEMORY), "target_bytes": always(HALF)}

CASES = [
    Case("VmStuck", vm(**STUCK), "5m", "4m30s"),
    Case("VmStuck", vm(**STUCK, paused=always(1)), None),
    Case("VmStuck", vm(**STUCK, paused=always(0)), "5m", "4m30s"),
    Case("VmStuck", vm(actual_bytes=f"{MEMORY}-{MIB}x100", target_bytes=always(HALF)), None),
    Case("VmStuck", vm(actual_bytes=always(HALF), target_bytes=always(HALF)), None),
    Case("VmStuck", vm(actual_bytes=always(HALF + 4 * MIB), target_bytes=always(HALF)), None),
    Case("GuestShortOfMemory", vm(**SHORT), "2m", "1m30s"),
    Case("GuestShortOfMemory", vm(**SHORT, guest_stats_age_seconds=always(61)), None),
    Case(
        "GuestShortOfMemory",
        vm(actual_bytes=always(MEMORY), guest_usable_memory_bytes=always(52 * MIB)),
        None,
    ),
    Case("GuestThrashes", vm(guest_major_faults_total="0+6300x100"), "4m", "3m"),
    Case("GuestThrashes", vm(guest_major_faults_total="0+5700x100"), None),
    Case("GuestThrashes", vm(guest_swap_in_bytes_total=f"0+{121 * MIB}x100"), "4m", "3m"),
    Case("GuestThrashes", vm(guest_swap_in_bytes_total=f"0+{119 * MIB}x100"), None),
    Case("GuestKillsPrograms", vm(guest_oom_kills_total="3x10 4x100"), "5m30s", "5m"),
    Case("GuestKillsPrograms", vm(guest_oom_kills_total=always(3)), None),
    Case("StatisticsStale", vm(**STALE), "3m30s", "3m"),
    Case("StatisticsStale", vm(**STALE, paused=always(1)), None),
    Case("StatisticsStale", vm(**(STALE | {"poll_interval_seconds": always(0)})), None),
    Case("StatisticsStale", vm(**(STALE | {"poll_interval_seconds": always(3600)})), None),
    Case(
        "StatisticsStale",
        vm(guest_stats_age_seconds=always(59), poll_interval_seconds=always(2)),
        None,
    ),
    Case(
        "BalloonWithoutEffect",
        vm(**GIVEN, host_held_bytes=always(800 * MIB)),
        "10m",
        "9m30s",
    ),
    Case("BalloonWithoutEffect", vm(**GIVEN, host_held_bytes=always(760 * MIB)), None),
    Case("BalloonWithoutEffect", vm(**GIVEN), None),
    Case(
        "BalloonWithoutEffect",
        vm(
            memory_bytes=always(MEMORY),
            actual_bytes=always(MEMORY - 200 * MIB),
            host_held_bytes=always(MEMORY),
        ),
        None,
    ),
    Case("VmUnreachable", vm(up="1x10 0x100"), "10m30s", "10m"),
    Case("VmUnreachable", vm(up="0x3 1x2 0x5 1x100"), None),
    Case("VmProblem", vm(problem=always(1)), "5m", "4m30s"),
    Case("VmProblem", vm(device_broken=always(1)), "5m", "4m30s"),
    Case("VmProblem", vm(problem=always(0), device_broken=always(0)), None),
    Case(
        "HostMemoryLow",
        host(host_memory_bytes=always(MEMORY), host_memory_available_bytes=always(100 * MIB)),
        "2m",
        "1m30s",
    ),
    Case(
        "HostMemoryLow",
        host(host_memory_bytes=always(MEMORY), host_memory_available_bytes=always(110 * MIB)),
        None,
    ),
    Case(
        "HostWaitsForMemory",
        {
            'ballonet_host_psi_memory_stalled_seconds_total{tasks="some", job="ballonet"}': (
                "0+4x100"
            )
        },
        "4m",
        "3m",
    ),
    Case(
        "HostWaitsForMemory",
        {
            'ballonet_host_psi_memory_stalled_seconds_total{tasks="full", job="ballonet"}': (
                "0+4x100"
            )
        },
        None,
    ),
    Case("AgentDown", {f"up{OF_HOST}": "1x10 0x100"}, "7m30s", "7m"),
    Case("AgentDown", {}, "2m", "1m30s"),
    Case("AgentDown", {f"up{OF_HOST}": always(1)}, None),
    Case(
        "AgentLate",
        host(agent_round_timestamp_seconds=always(0), agent_period_seconds=always(2)),
        "3m",
        "2m30s",
    ),
    Case(
        "AgentLate",
        host(agent_round_timestamp_seconds="0+30x100", agent_period_seconds=always(2)),
        None,
    ),
    Case(
        "AgentLate",
        host(agent_round_timestamp_seconds=always(0), agent_period_seconds=always(3600)),
        None,
    ),
    Case("AgentFindsNothing", host(agent_discovery_up=always(0)), "5m", "4m30s"),
    Case("AgentFindsNothing", host(agent_discovery_up=always(1)), None),
    Case("AutopilotAlarm", alarm("infeasible", enabled=1), "2m", "1m30s"),
    Case("AutopilotAlarm", alarm("infeasible", enabled=0), None),
    Case("AutopilotAlarm", alarm("lost", enabled=1), None),
    Case("AgentConfigurationRefused", host(agent_configuration_up=always(0)), "5m", "4m30s"),
    Case("AgentConfigurationRefused", host(agent_configuration_up=always(1)), None),
]


def moment(case: Case, at: str, *, fires: bool) -> dict[str, object]:
    expression = f'count(ALERTS{{alertname="Ballonet{case.alert}", alertstate="firing"}})'
    samples = [{"labels": "{}", "value": 1}] if fires else []
    return {"expr": expression, "eval_time": at, "exp_samples": samples}


def test_alerts_fire_when_they_should_and_not_before(tmp_path: Path) -> None:
    tests = []
    for case in CASES:
        moments = [moment(case, case.not_at, fires=False)]
        if case.since is not None:
            moments.append(moment(case, case.since, fires=True))
        tests.append(
            {
                "interval": "30s",
                "name": f"{case.alert} {case.since}",
                "input_series": [
                    {"series": name, "values": values} for name, values in case.series.items()
                ],
                "promql_expr_test": moments,
            }
        )
    path = tmp_path / "tests.yml"  # of which JSON is a part
    path.write_text(
        json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "30s", "tests": tests})
    )
    done = promtool("test", "rules", str(path))
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    lines = RULES.read_text(encoding="utf-8").splitlines()
    alerts = {line.partition("Ballonet")[2] for line in lines if "- alert:" in line}
    assert alerts == {case.alert for case in CASES if case.since is not None}
    assert alerts == {case.alert for case in CASES if case.since is None}


def test_the_rules_are_correct_in_the_eyes_of_promtool() -> None:
    done = promtool("check", "rules", str(RULES))
    assert done.returncode == 0, done.stdout + done.stderr
