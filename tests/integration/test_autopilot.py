"""The autopilot of `ballonet agent` as operators use it, over guests of our own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from tests.integration.host_under_test import HostProcess, running
from tests.support.agent_process import BALLONET, AgentProcess, agent, configuration
from tests.support.wait import PATIENCE_S, holds

from ballonet.guests.embedded import EmbeddedGuestSettings
from ballonet.guests.embedded_process import EmbeddedGuest

#: They see what runs on this machine, by name: one after the other.
pytestmark = pytest.mark.xdist_group("machines by name")

MIB = 1 << 20
MEMORY_BYTES = 128 * MIB
NAMES = ("pilo-a", "pilo-b", "pilo-c")
BUDGET_BYTES = 256 * MIB
STEP_BYTES = 10 * MIB


def settings(text: str = "enable = true", *, names: tuple[str, ...] = NAMES) -> str:
    """Of an agent whose machines may keep two thirds of their memory together."""
    return (
        configuration(names, period_s=1.0, poll_interval_s=1)
        + f'[autopilot]\nbudget = "{BUDGET_BYTES}B"\n{text}\n'
    )


@contextmanager
def guests(folder: Path) -> Iterator[tuple[HostProcess, dict[str, EmbeddedGuest]]]:
    """A host of three guests."""
    with running(folder / "host") as host, ExitStack() as stack:
        machines = {
            name: stack.enter_context(
                EmbeddedGuest(EmbeddedGuestSettings(MEMORY_BYTES, host.add(name)))
            )
            for name in NAMES
        }
        yield host, machines


@contextmanager
def piloted(
    folder: Path, text: str = "enable = true"
) -> Iterator[tuple[HostProcess, dict[str, EmbeddedGuest], AgentProcess]]:
    """The same, and an agent over them."""
    with guests(folder) as (host, machines), agent(folder / "agent", settings(text)) as pilot:
        yield host, machines, pilot


def verb(pilot: AgentProcess, *words: str) -> subprocess.CompletedProcess[str]:
    command = [BALLONET, "autopilot", *words, "--directory", str(pilot.directory)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)


def status(pilot: AgentProcess) -> dict[str, Any]:
    done = verb(pilot, "status", "--json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def kept(host: HostProcess) -> dict[str, int]:
    """What each guest was asked to keep."""
    return {name: MEMORY_BYTES - int(row["target"]) for name, row in host.rows().items()}


def keeps(host: HostProcess) -> dict[str, int]:
    """What each guest keeps."""
    return {name: MEMORY_BYTES - int(row["actual"] or 0) for name, row in host.rows().items()}


def grow(pilot: AgentProcess, machine: EmbeddedGuest, size: int) -> int:
    """Have the guest's programs use so much more, as fast as it gets it; returns the steps."""
    for _ in range(size // STEP_BYTES):
        pilot.until(lambda: machine.meminfo()["MemAvailable"] > 1.2 * STEP_BYTES, "it gets nothing")
        assert machine.ask("hog", size=STEP_BYTES)
    return size // STEP_BYTES


def decisions(pilot: AgentProcess) -> list[dict[str, Any]]:
    lines = (pilot.directory / "autopilot.jsonl").read_text().splitlines()
    return [json.loads(line)["decision"] for line in lines if '"decision"' in line]


def test_guests_are_brought_within_the_budget_and_stay_there(tmp_path: Path) -> None:
    with piloted(tmp_path) as (host, machines, pilot):
        pilot.until(
            lambda: sum(keeps(host).values()) <= BUDGET_BYTES, "they keep more than there is"
        )
        steps = grow(pilot, machines["pilo-a"], 80 * MIB)
        pilot.until(lambda: keeps(host)["pilo-a"] >= 100 * MIB, "it is not given what it needs")
        assert sum(keeps(host).values()) <= BUDGET_BYTES
        assert machines["pilo-a"].ask("release_hogs") == steps  # reads back what it wrote
        assert all(machine.vmstat()["oom_kill"] == 0 for machine in machines.values())
        told = status(pilot)
        assert told["host"]["budget"] == BUDGET_BYTES
        assert {row["vm"] for row in told["vms"]} == {f"ballonet:{name}" for name in NAMES}
        done = verb(pilot, "why", "pilo-a")
        assert done.returncode == 0
        assert "it uses" in done.stdout or "its use" in done.stdout
        written = decisions(pilot)
        assert {one["vm"] for one in written} == {f"ballonet:{name}" for name in NAMES}
        assert all(one["because"] for one in written)


def test_it_only_tries_until_it_is_enabled(tmp_path: Path) -> None:
    with piloted(tmp_path, "") as (host, _, pilot):
        pilot.until(lambda: decisions(pilot) if ledger(pilot).exists() else [], "nothing decided")
        pilot.wait_for_rounds(3)
        assert set(keeps(host).values()) == {MEMORY_BYTES}
        assert pilot.value("ballonet_autopilot_enabled") == 0
        assert "no machine is asked" in verb(pilot, "status").stdout
        assert pilot.said("would move") >= 1
        refused = verb(pilot, "dry-run", "--off")
        assert (refused.returncode, "enable = true" in refused.stderr) == (1, True)
        pilot.path.write_text(settings())
        pilot.process.send_signal(signal.SIGHUP)
        pilot.until(lambda: sum(keeps(host).values()) <= BUDGET_BYTES, "it was not enabled")
        assert pilot.value("ballonet_autopilot_enabled") == 1


def test_top_says_what_it_thinks(tmp_path: Path) -> None:
    with piloted(tmp_path, "") as (_, __, pilot):
        pilot.until(lambda: len(status(pilot)["vms"]) == len(NAMES), "they are not seen")
        done = subprocess.run(
            [BALLONET, "top", "pilo-*", "--once", "--json"],
            env={**os.environ, "BALLONET_DIRECTORY": str(pilot.directory)},
            capture_output=True,
            text=True,
            check=True,
        )
        machines = json.loads(done.stdout)["machines"]
        assert [one["name"] for one in machines] == list(NAMES)
        assert all(one["autopilot"]["because"] for one in machines)
        assert all(one["autopilot"]["is_dry_run"] for one in machines)


def ledger(pilot: AgentProcess) -> Path:
    return pilot.directory / "autopilot.jsonl"


def test_a_machine_that_is_paused_or_excluded_is_left_alone(tmp_path: Path) -> None:
    text = 'enable = true\n[autopilot.vm."pilo-c"]\nexclude = true'
    with guests(tmp_path) as (host, _):
        with agent(tmp_path / "agent", settings("")) as pilot:
            pilot.wait_for_rounds(1)
            assert verb(pilot, "pause", "pilo-b").returncode == 0
            assert pilot.end() == 0
        with agent(tmp_path / "agent", settings(text)) as pilot:
            pilot.until(lambda: keeps(host)["pilo-a"] < MEMORY_BYTES, "nobody is asked")
            pilot.wait_for_rounds(3)
            assert (keeps(host)["pilo-b"], keeps(host)["pilo-c"]) == (MEMORY_BYTES, MEMORY_BYTES)
            states = {row["vm"]: row["state"] for row in status(pilot)["vms"]}
            assert (states["ballonet:pilo-b"], states["ballonet:pilo-c"]) == ("excluded",) * 2
            assert verb(pilot, "resume", "ballonet:pilo-b").returncode == 0
            pilot.until(lambda: keeps(host)["pilo-b"] < MEMORY_BYTES, "it is not resumed")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_when_it_ends_every_guest_keeps_what_it_was_asked_to(
    how: signal.Signals, tmp_path: Path
) -> None:
    with piloted(tmp_path) as (host, machines, pilot):
        pilot.until(
            lambda: sum(keeps(host).values()) <= BUDGET_BYTES, "they keep more than there is"
        )
        steps = grow(pilot, machines["pilo-a"], 60 * MIB)
        pilot.end(how)
        before = kept(host)
        assert holds(lambda: kept(host) == before, 1.0)
        assert machines["pilo-a"].meminfo()["MemAvailable"] > 0
        assert machines["pilo-a"].ask("release_hogs") == steps


def test_memory_can_be_reserved_for_somebody_who_is_to_come(tmp_path: Path) -> None:
    with piloted(tmp_path, 'enable = true\n[autopilot.vm."*"]\nmin = "16M"') as (host, _, pilot):
        pilot.until(
            lambda: sum(keeps(host).values()) <= BUDGET_BYTES, "they keep more than there is"
        )
        done = verb(pilot, "reserve", "80M", "--deadline", "100s", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["missing_bytes"] == 0
        assert sum(kept(host).values()) <= BUDGET_BYTES - 80 * MIB
        too_much = verb(pilot, "reserve", "8G", "--deadline", "1s")
        assert too_much.returncode == 1
        assert "all machines together cannot give that" in too_much.stderr
        assert verb(pilot, "release").returncode == 0
        pilot.until(lambda: not status(pilot)["reserved"], "it is reserved still")


def test_what_was_recorded_can_be_decided_again_and_drawn(tmp_path: Path) -> None:
    with piloted(tmp_path, "enable = true\nrecord_rounds = true") as (host, _, pilot):
        pilot.until(
            lambda: sum(keeps(host).values()) <= BUDGET_BYTES, "they keep more than there is"
        )
        record, picture = str(ledger(pilot)), tmp_path / "picture.svg"
        again = ["autopilot", "replay", record, "--budget", f"{BUDGET_BYTES}B"]
        done = ballonet(*again, "--json", "--picture", str(picture))
        assert done.returncode == 0, done.stderr
        figures = json.loads(done.stdout)
        assert figures["machines"] == len(NAMES)
        assert figures["rounds"] >= 2
        assert figures["decisions"]
        titles = [one.text for one in ET.parse(picture).iter() if one.tag.endswith("text")]  # noqa: S314 - ours
        assert all(f"ballonet:{name}" in titles for name in NAMES)
        roomy = json.loads(ballonet(*again[:3], "--budget", "1G", "--json").stdout)
        assert roomy["rounds_in_which_some_lack"] == 0


def ballonet(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BALLONET, *arguments], capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )


def test_a_worker_that_hangs_is_not_asked_for_memory_by_an_old_decision(tmp_path: Path) -> None:
    with piloted(tmp_path, "") as (host, _, pilot):
        pilot.wait_for_rounds(1)
        worker = host.worker("pilo-b")
        subprocess.run(["kill", "-STOP", str(worker)], check=True)
        try:
            pilot.path.write_text(settings())
            pilot.process.send_signal(signal.SIGHUP)
            pilot.until(
                lambda: min(keeps(host)["pilo-a"], keeps(host)["pilo-c"]) < MEMORY_BYTES,
                "the others are not asked",
            )
        finally:
            subprocess.run(["kill", "-CONT", str(worker)], check=True)
        pilot.until(
            lambda: sum(keeps(host).values()) <= BUDGET_BYTES, "they keep more than there is"
        )


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("why", "nobody"), "no machine has that name: ballonet:pilo-a, "),
        (("pause", "nobody"), "no machine has that name"),
        (("resume", "ballonet:pilo-a"), "is not paused; paused: none"),
        (("reserve", "80M"), "the autopilot tries only"),
    ],
)
def test_what_cannot_be_done_is_one_clear_line(
    words: tuple[str, ...], text: str, only_trying: AgentProcess
) -> None:
    done = verb(only_trying, *words)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert text in done.stderr


@pytest.fixture(scope="module")
def only_trying(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    with piloted(tmp_path_factory.mktemp("trying"), "") as (_, _, pilot):
        pilot.until(lambda: len(status(pilot)["vms"]) == len(NAMES), "they are not seen")
        yield pilot


def test_without_an_agent_that_is_said(tmp_path: Path) -> None:
    done = ballonet("autopilot", "status", "--directory", str(tmp_path))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "`ballonet agent` starts one" in done.stderr


def test_a_file_without_rounds_cannot_be_decided_again(tmp_path: Path) -> None:
    record = tmp_path / "record"
    record.write_text('{"decision": {}}\n')
    done = ballonet("autopilot", "replay", str(record))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "`record_rounds = true` has them written" in done.stderr
    record.write_text("no json\n")
    done = ballonet("autopilot", "replay", str(record))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)


def test_a_directory_that_others_may_write_to_has_no_agent_of_ours(tmp_path: Path) -> None:
    place = tmp_path / "ballonet"
    place.mkdir()
    place.chmod(0o777)
    done = subprocess.run(
        [BALLONET, "autopilot", "status"],
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "only its owner may write to" in done.stderr
