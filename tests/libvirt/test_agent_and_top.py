"""The agent and `top` over domains of libvirt, also while its daemon is away."""

from __future__ import annotations

import json
import subprocess
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.libvirt.conftest import NAMES, Domains
from tests.support.agent_process import BALLONET, AgentProcess, agent, configuration
from tests.support.turn import on_day
from tests.support.wait import PATIENCE_S

from ballonet.guests.qemu import QemuGuest

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


#: Of five with 256 MiB each.
BUDGET_BYTES = 5 * 128 * MIB
#: In a guest, some time after it has begun: 10 MiB/s up to 100 MiB.
GROWS = """/bin/busybox mkdir /used
/bin/busybox mount -t tmpfs -o size=100% tmpfs /used
(
    /bin/busybox sleep 15
    for part in $(/bin/busybox seq 50); do
        /bin/busybox dd if=/dev/zero bs=1M count=2 2>/dev/null >> /used/file
        /bin/busybox usleep 200000
    done
) &"""
ALL = (*(("libvirt", name) for name in NAMES), ("qemu", "pilq-a"), ("qemu", "pilq-b"))


@on_day(0, 2)
def test_the_autopilot_brings_domains_and_machines_of_qemu_within_one_budget(
    domains: Domains, tmp_path: Path
) -> None:
    text = configuration([name for _, name in ALL], period_s=1.0)
    text += f'[autopilot]\nenable = true\nbudget = "{BUDGET_BYTES}B"\n'
    with ExitStack() as stack:
        for name, first in (("pilq-a", GROWS), ("pilq-b", "")):
            stack.enter_context(QemuGuest(256 * MIB, first=first, arguments=("-name", name)))
        pilot = stack.enter_context(agent(tmp_path / "agent", text, **domains.environment))
        pilot.until(
            lambda: 0 < kept_together(pilot) <= BUDGET_BYTES, "they keep more than there is"
        )
        needs = partial(pilot.value, "ballonet_autopilot_vm_need_bytes", vm="pilq-a", kind="qemu")
        pilot.until(lambda: (needs() or 0) > 120 * MIB, "its use does not rise")
        pilot.until(lambda: kept(pilot, "qemu", "pilq-a") > 150 * MIB, "it is not given more")
        assert kept_together(pilot) <= BUDGET_BYTES
        asked = {(one["vm"], one["to_bytes"] < one["from_bytes"]) for one in decisions(pilot)}
        assert {(f"{kind}:{name}", True) for kind, name in ALL} <= asked
        assert ("qemu:pilq-a", False) in asked
        assert pilot.end() == 0


def kept(pilot: AgentProcess, kind: str, name: str) -> float:
    return pilot.value("ballonet_vm_actual_bytes", vm=name, kind=kind) or 0.0


def kept_together(pilot: AgentProcess) -> float:
    """What all five keep; 0 as long as one of them is not known."""
    sizes = [kept(pilot, kind, name) for kind, name in ALL]
    return sum(sizes) if all(sizes) else 0.0


def decisions(pilot: AgentProcess) -> list[dict[str, Any]]:
    lines = (pilot.directory / "autopilot.jsonl").read_text().splitlines()
    return [json.loads(line)["decision"] for line in lines]
