"""The agent and `top` over domains of libvirt, also while its daemon is away."""

from __future__ import annotations

import json
import subprocess
from functools import partial
from pathlib import Path

import pytest
from tests.libvirt.conftest import NAMES, Domains
from tests.support.agent_process import BALLONET, AgentProcess, agent, configuration
from tests.support.wait import PATIENCE_S

#: They see what runs on this machine, by name: one after the other.
pytestmark = [pytest.mark.xdist_group("machines by name"), pytest.mark.timeout(300)]

MIB = 1 << 20


def values(watcher: AgentProcess, metric: str) -> list[float | None]:
    """Of all three."""
    return [watcher.value(metric, vm=name, kind="libvirt") for name in NAMES]


def are(watcher: AgentProcess, metric: str, value: float) -> bool:
    """All three have this value."""
    return values(watcher, metric) == [value] * len(NAMES)


def test_the_agent_survives_the_death_of_libvirtd_and_leaves_domains_as_before(
    domains: Domains, tmp_path: Path
) -> None:
    session = domains.session
    with agent(tmp_path / "agent", configuration(["lv-*"]), **domains.environment) as watcher:
        kept = partial(are, watcher, "ballonet_vm_actual_bytes", 256 * MIB)
        watcher.until(kept, "what the domains keep is not served")
        watcher.until(
            lambda: all(values(watcher, "ballonet_vm_guest_usable_memory_bytes")),
            "the guests are not asked for statistics",
        )
        assert [session.period_s(name) for name in NAMES] == [1] * len(NAMES)
        assert all(values(watcher, "ballonet_vm_host_held_bytes"))
        session.kill()
        watcher.until(partial(are, watcher, "ballonet_vm_up", 0), "nobody is missed")
        session.start()
        watcher.until(partial(are, watcher, "ballonet_vm_up", 1), "they do not come back")
        assert watcher.end() == 0
    assert [session.period_s(name) for name in NAMES] == [0] * len(NAMES)
    assert [session.memory_stats(name)["actual"] for name in NAMES] == [256 << 10] * len(NAMES)


def test_top_shows_the_domains_once_and_for_programs(domains: Domains) -> None:
    command = [BALLONET, "top", "lv-*", "--once", "--json"]
    done = subprocess.run(
        command,
        env=domains.environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    (look,) = [json.loads(line) for line in done.stdout.splitlines()]
    rows = {row["name"]: row for row in look["machines"]}
    assert set(rows) == set(NAMES)
    for row in rows.values():
        assert (row["kind"], row["memory_bytes"]) == ("libvirt", 256 * MIB)
        assert row["actual_bytes"] == 256 * MIB
        assert 0 < row["available_bytes"] < 256 * MIB
        assert row["host_bytes"] > 0
    assert [domains.session.period_s(name) for name in NAMES] == [0] * len(NAMES)
