"""The agent's metrics, the alerts and the dashboard in a real Prometheus, over real guests."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.integration.host_under_test import HostProcess, running
from tests.integration.moving_guests import device
from tests.support.agent_process import AgentProcess, agent, configuration
from tests.support.programs import started, wait_for_listener
from tests.support.prometheus import Prometheus, promtool
from tests.support.qmp_client import QmpClient
from tests.support.wait import PATIENCE_S, wait_until

from ballonet.guests.embedded import EmbeddedGuestSettings
from ballonet.guests.embedded_process import EmbeddedGuest
from ballonet.kernel.kernel import KernelSettings

PACKAGING = Path(__file__).parents[2] / "packaging"
RULES = PACKAGING / "prometheus" / "ballonet-alerts.yml"
DASHBOARD = PACKAGING / "grafana" / "ballonet.json"
MIB = 1 << 20
#: Beside dashboard and rules: of a host that does not tell its pressure there is none.
HAS_PRESSURE = Path("/proc/pressure/memory").exists()
#: Each of them is provoked below; when the others fire is in test_alert_times.py.
PROVOKED = {
    ("BallonetVmStuck", "prom-stopped"),
    ("BallonetStatisticsStale", "prom-stopped"),
    ("BallonetGuestShortOfMemory", "prom-hungry"),
    ("BallonetGuestThrashes", "prom-swapping"),
    ("BallonetGuestKillsPrograms", "prom-killing"),
    ("BallonetBalloonWithoutEffect", "prom-kept"),
    ("BallonetVmUnreachable", "prom-lost"),
    ("BallonetAgentConfigurationRefused", ""),
}


class Machines(NamedTuple):
    """What is watched."""

    host: HostProcess
    guests: dict[str, EmbeddedGuest]
    agent: AgentProcess


@contextmanager
def machines(folder: Path, *names: str, **more: EmbeddedGuestSettings) -> Iterator[Machines]:
    """A host of guests of 64 MiB, others as they are given, and their agent."""
    with running(folder / "host") as host, ExitStack() as stack:
        settings = {
            name: EmbeddedGuestSettings(
                64 * MIB, host.add(name), kernel=KernelSettings(swap_bytes=SWAP.get(name, 0))
            )
            for name in names
        }
        settings |= {name.replace("_", "-"): one for name, one in more.items()}
        guests = {name: stack.enter_context(EmbeddedGuest(one)) for name, one in settings.items()}
        yield Machines(
            host,
            guests,
            stack.enter_context(agent(folder / "agent", configuration(["prom-*"]))),
        )


SWAP = {"prom-swapping": 128 * MIB}


def in_seconds(text: str) -> str:
    """Rules that wait seconds where the real ones wait minutes."""
    text = re.sub(r"for: \d+m", "for: 1s", text)
    text = re.sub(r"\[\d+m\]", "[10s]", text)
    return re.sub(r"(stats_age_seconds >) 60", r"\1 3", text)


def expressions_of_dashboard() -> list[str]:
    """As Grafana sends them, with all VMs chosen."""
    found: list[str] = []

    def look(part: Any) -> None:  # noqa: ANN401 - JSON
        if isinstance(part, dict):
            if "expr" in part:
                found.append(part["expr"])
            for one in part.values():
                look(one)
        elif isinstance(part, list):
            for one in part:
                look(one)

    look(json.loads(DASHBOARD.read_text(encoding="utf-8")))
    return [one.replace("$vm", ".*").replace("$__rate_interval", "10s") for one in found]


def selectors_of_rules() -> set[str]:
    """Every series that some rule looks at."""
    text = RULES.read_text(encoding="utf-8")
    expressions = re.findall(r"expr: (?:\|\n((?:          .*\n)+)|(.*)\n)", text)
    found = {
        one
        for pair in expressions
        for one in re.findall(r"(?:ballonet_\w+|up)(?:\{[^}]*\})?", "".join(pair))
    }
    assert len(found) > 15
    return found


def test_every_expression_of_dashboard_and_alerts_returns_series(tmp_path: Path) -> None:
    with (
        machines(tmp_path, "prom-one", "prom-two") as watched,
        Prometheus(tmp_path / "prometheus", watched.agent.url, RULES) as prometheus,
    ):
        checked = promtool("check", "metrics", text=watched.agent.get("/metrics")[1])
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
        watched.host.balloon("prom-one", "48M")
        dashboard, selectors = expressions_of_dashboard(), selectors_of_rules()
        assert len(dashboard) > 30
        for expression in [*dashboard, *sorted(selectors)]:
            if HAS_PRESSURE or "psi" not in expression:
                once(lambda expression=expression: prometheus.query(expression), expression)  # type: ignore[misc]
        wait_until(
            lambda: all(rule["health"] == "ok" for rule in prometheus.rules()),
            PATIENCE_S,
            "a rule cannot be evaluated",
            every_s=0.2,
        )
        assert prometheus.value('ballonet_vm_memory_bytes{vm="prom-one"}') == 64 * MIB
        once(
            lambda: prometheus.value('ballonet_vm_actual_bytes{vm="prom-one"}') == 48 * MIB,
            "what it keeps does not follow",
        )
        assert watched.host.verb("remove", "prom-one").returncode == 0
        once(lambda: not prometheus.query('{vm="prom-one"}'), "what is gone is still there")
        assert prometheus.value('ballonet_vm_up{vm="prom-two"}') == 1


def test_every_alert_fires_when_its_case_is_provoked(tmp_path: Path) -> None:
    rules = tmp_path / "alerts.yml"
    rules.write_text(in_seconds(RULES.read_text(encoding="utf-8")), encoding="utf-8")
    names = ("prom-stopped", "prom-hungry", "prom-swapping", "prom-killing", "prom-lost")
    with (
        device(tmp_path, "prom-kept", "--no-discard"),
        machines(
            tmp_path, *names, prom_kept=EmbeddedGuestSettings(384 * MIB, tmp_path / "prom-kept")
        ) as watched,
        Prometheus(tmp_path / "prometheus", watched.agent.url, rules) as prometheus,
    ):
        once(lambda: prometheus.value("sum(ballonet_vm_up)") == 6, "not all of them are up")
        once(
            lambda: prometheus.value("count(ballonet_vm_guest_stats_age_seconds)") == 6,
            "not all of them send statistics",
        )
        stopped = [watched.guests["prom-stopped"].pid, watched.host.worker("prom-lost")]
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            watched.host.balloon("prom-stopped", "32M")
            provoke(watched, tmp_path)
            fired: dict[tuple[str, str], Mapping[str, str]] = {}

            def have_all_fired() -> bool:
                go_on(watched)
                fired.update(prometheus.firing())
                return fired.keys() >= PROVOKED

            once(have_all_fired, lambda: f"missing: {PROVOKED - fired.keys()}")
            for (name, vm), annotations in fired.items():
                for text in annotations.values():
                    assert text, name
                    assert "error" not in text.lower(), text
                    assert "<no value>" not in text, text
                assert not vm or vm in annotations["summary"]
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
        watched.agent.end(signal.SIGKILL)
        once(
            lambda: ("BallonetAgentDown", "") in prometheus.firing(), "that it is down is not seen"
        )


def test_floors_that_do_not_fit_are_an_alert_of_the_autopilot_that_acts(tmp_path: Path) -> None:
    rules = tmp_path / "alerts.yml"
    rules.write_text(in_seconds(RULES.read_text(encoding="utf-8")), encoding="utf-8")
    acts = '[autopilot]\nenable = true\nbudget = "32M"\n[autopilot.vm."prom-*"]\nmin = "64M"\n'
    with (
        running(tmp_path / "host") as host,
        EmbeddedGuest(EmbeddedGuestSettings(64 * MIB, host.add("prom-small"))),
        agent(tmp_path / "agent", configuration(["prom-*"]) + acts) as watcher,
        Prometheus(tmp_path / "prometheus", watcher.url, rules) as prometheus,
    ):
        fired = ("BallonetAutopilotAlarm", "")
        once(lambda: fired in prometheus.firing(), "that the floors do not fit is not told")
        assert "infeasible" in prometheus.firing()[fired]["summary"]


def go_on(watched: Machines) -> None:
    """What is counted has to be done again and again."""
    assert watched.guests["prom-killing"].ask("hog", size=128 * MIB) is False
    swapping = watched.guests["prom-swapping"]
    assert swapping.ask("hog", size=100 * MIB) is True
    swapping.ask("release_hogs")


def provoke(watched: Machines, folder: Path) -> None:
    """Of every kind of trouble one."""
    hungry = watched.guests["prom-hungry"]
    assert hungry.ask("hog", size=int(hungry.meminfo()["MemAvailable"] * 0.97)) is True
    kept = watched.guests["prom-kept"]
    kept.use_memory(95)
    with QmpClient(folder / "prom-kept.qmp") as client:
        assert "return" in client.negotiate().ask("balloon", value=96 * MIB)
    watched.agent.path.write_text("[agent]\nperoid_s = 1\n", encoding="utf-8")
    watched.agent.process.send_signal(signal.SIGHUP)


@pytest.mark.qemu
def test_a_qemu_without_a_balloon_is_a_problem_that_is_told(tmp_path: Path) -> None:
    if shutil.which("qemu-system-x86_64") is None:
        if "qemu" in os.environ.get("BALLONET_REQUIRE", "").split(","):
            pytest.fail("QEMU is required")
        pytest.skip("there is no qemu-system-x86_64")
    rules = tmp_path / "alerts.yml"
    rules.write_text(in_seconds(RULES.read_text(encoding="utf-8")), encoding="utf-8")
    path = tmp_path / "qmp"
    command = [
        *("qemu-system-x86_64", "-machine", "none", "-S", "-display", "none", "-nodefaults"),
        *("-name", "prom-bare", "-qmp", f"unix:{path},server=on,wait=off"),
    ]
    with started(command) as qemu:
        wait_for_listener(path)
        with (
            agent(tmp_path / "agent", configuration(["prom-*"])) as watcher,
            Prometheus(tmp_path / "prometheus", watcher.url, rules) as prometheus,
        ):
            wanted = ("BallonetVmProblem", "prom-bare")
            once(lambda: wanted in prometheus.firing(), "that it has a problem is not told")
        qemu.kill()


def once(predicate: Callable[[], object], message: str | Callable[[], str]) -> None:
    """It comes true, sooner or later, in Prometheus."""
    try:
        wait_until(predicate, PATIENCE_S, "", every_s=0.2)
    except AssertionError as error:
        text = message if isinstance(message, str) else message()
        raise AssertionError(f"{text} {error}") from None
