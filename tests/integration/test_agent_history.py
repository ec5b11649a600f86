"""What the agent remembers, over guests of our own, and what its verbs show of it."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest
from tests.integration.host_under_test import running
from tests.support.agent_process import BALLONET, AgentProcess, agent, configuration
from tests.support.wait import PATIENCE_S

from ballonet.guests.embedded import EmbeddedGuestSettings
from ballonet.guests.embedded_process import EmbeddedGuest

#: They see what runs on this machine, by name: one after the other.
pytestmark = pytest.mark.xdist_group("machines by name")

MIB = 1 << 20


def history(watcher: AgentProcess, *words: str) -> subprocess.CompletedProcess[str]:
    command = [BALLONET, "history", *words, "--directory", str(watcher.directory)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)


def kept(watcher: AgentProcess) -> list[int]:
    """What is remembered of one machine's size, in MiB."""
    done = history(watcher, "hist-a", "--json")
    if done.returncode:
        return []
    told = json.loads(done.stdout)
    (rows,) = told["vms"].values()
    at = told["keys"].index("actual")
    return [row[at] // MIB for row in rows]


def test_what_was_seen_outlives_an_agent_that_is_killed(tmp_path: Path) -> None:
    text = configuration(["hist-*"])
    with (
        running(tmp_path / "host") as host,
        EmbeddedGuest(EmbeddedGuestSettings(64 * MIB, host.add("hist-a"))),
    ):
        with agent(tmp_path / "agent", text) as watcher:
            watcher.until(lambda: 64 in kept(watcher), "nothing is remembered")
            watcher.end(signal.SIGKILL)
        host.balloon("hist-a", "48M")
        with agent(tmp_path / "agent", text) as watcher:
            watcher.until(lambda: kept(watcher)[-1:] == [48], "nothing more is remembered")
            assert kept(watcher)[0] == 64
            drawn = history(watcher)
            assert drawn.returncode == 0, drawn.stderr
            assert "ballonet:hist-a" in drawn.stdout
            alone = history(watcher, "ballonet:hist-a", "--last", "1m")
            assert "keeps  48.0M now, 48.0M to 64.0M, of 64.0M" in alone.stdout
            unknown = history(watcher, "nobody")
            assert (unknown.returncode, "hist-a" in unknown.stderr) == (1, True)


def test_without_an_agent_it_is_said_how_to_start_one(tmp_path: Path) -> None:
    command = [BALLONET, "history", "--directory", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert done.returncode == 1
    assert "`ballonet agent` starts one" in done.stderr
