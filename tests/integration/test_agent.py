"""`ballonet agent` as operators use it, over guests of our own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.integration.host_under_test import HostProcess, running
from tests.support.agent_process import BALLONET, AgentProcess, agent, configuration
from tests.support.odd_monitor import odd_monitor
from tests.support.qmp_client import QmpClient
from tests.support.rest_machines import program
from tests.support.wait import PATIENCE_S, holds, wait_until

from ballonet.guests.embedded import EmbeddedGuestSettings
from ballonet.guests.embedded_process import EmbeddedGuest

#: They see what runs on this machine, by name: one after the other.
pytestmark = pytest.mark.xdist_group("machines by name")

MIB = 1 << 20
NAMES = configuration(["agen-*"])


def ballonet(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [BALLONET, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)


@contextmanager
def guests(folder: Path, *names: str) -> Iterator[tuple[HostProcess, list[EmbeddedGuest]]]:
    """A host of guests of these names."""
    with running(folder / "host") as host, ExitStack() as stack:
        machines = []
        for name in names:
            settings = EmbeddedGuestSettings(64 * MIB, host.add(name))
            machines.append(stack.enter_context(EmbeddedGuest(settings)))
        yield host, machines


def of(name: str) -> dict[str, str]:
    return {"vm": name, "kind": "ballonet"}


BALLOON = {
    "path": "/machine/peripheral/balloon0",
    "property": "guest-stats-polling-interval",
}


def interval(host: HostProcess, name: str) -> int:
    with QmpClient(host.directory / f"{name}.qmp") as client:
        return int(client.negotiate().ask("qom-get", **BALLOON)["return"])


def test_what_guests_have_is_served_and_one_that_ends_vanishes(tmp_path: Path) -> None:
    with (
        guests(tmp_path, "agen-web", "agen-db") as (host, machines),
        agent(tmp_path / "agent", configuration(["agen-web", "ballonet:agen-db"])) as watcher,
    ):
        host.balloon("agen-web", "48M")
        watcher.until(
            lambda: watcher.value("ballonet_vm_actual_bytes", **of("agen-web")) == 48 * MIB,
            "what it keeps is not seen",
        )
        watcher.until(
            lambda: watcher.value("ballonet_vm_guest_usable_memory_bytes", **of("agen-db")),
            "the guest is not asked for statistics",
        )
        watcher.until(
            lambda: (
                watcher.value("ballonet_vm_guest_highest_major_faults_per_second", **of("agen-db"))
                is not None
            ),
            "no two samples come",
        )
        series = watcher.series()
        seen = {
            name: value for (name, labels), value in series.items() if ("vm", "agen-web") in labels
        }
        assert seen["ballonet_vm_up"] == seen["ballonet_vm_driver"] == 1
        assert seen["ballonet_vm_target_bytes"] == 48 * MIB
        assert seen["ballonet_vm_memory_bytes"] == 64 * MIB
        assert 0 < seen["ballonet_vm_host_held_bytes"] <= 64 * MIB
        assert seen["ballonet_vm_device_inflated_pages_total"] == 16 * MIB >> 12
        assert watcher.value("ballonet_agent_machines", kind="ballonet") == 2
        assert watcher.get("/healthz") == (200, "rounds are made\n")
        assert watcher.get("/")[0] == 404
        assert host.verb("remove", "agen-web").returncode == 0
        watcher.until(
            lambda: watcher.value("ballonet_vm_up", **of("agen-web")) is None,
            "it is shown although it is gone",
        )
        assert watcher.value("ballonet_vm_up", **of("agen-db")) == 1
        assert machines[1].is_running
        assert watcher.said("watching 2 machines: 2 of ballonet") == 1
        assert watcher.said("ballonet:agen-web is gone") == 1


def test_intervals_are_put_back_when_it_is_ended_and_not_those_of_others(tmp_path: Path) -> None:
    with guests(tmp_path, "agen-silent", "agen-asked") as (host, _):
        with QmpClient(host.directory / "agen-asked.qmp") as client:
            assert "return" in client.negotiate().ask("qom-set", value=7, **BALLOON)
        for how in (signal.SIGTERM, signal.SIGINT):
            with agent(tmp_path / "agent", NAMES) as watcher:
                wait_until(
                    lambda: interval(host, "agen-silent") == 1, PATIENCE_S, "nobody is asked"
                )
                assert watcher.end(how) == 0
            assert interval(host, "agen-silent") == 0
            assert interval(host, "agen-asked") == 7
            assert not (tmp_path / "agent" / "run" / "agent.pid").exists()


def test_a_machine_that_stands_still_is_said_so_and_holds_up_nobody(tmp_path: Path) -> None:
    with (
        guests(tmp_path, "agen-stopped", "agen-good") as (host, _),
        agent(tmp_path / "agent", NAMES) as watcher,
    ):
        up = {name: of(name) for name in ("agen-stopped", "agen-good")}
        watcher.until(
            lambda: all(watcher.value("ballonet_vm_up", **one) for one in up.values()),
            "they are not seen",
        )
        worker = host.worker("agen-stopped")
        os.kill(worker, signal.SIGSTOP)
        try:
            watcher.until(lambda: watcher.said("agen-stopped does not answer"), "no news")
            assert watcher.value("ballonet_vm_up", **up["agen-stopped"]) == 0
            watcher.wait_for_rounds(3)
            age_s = watcher.value("ballonet_vm_observation_age_seconds", **up["agen-good"])
            assert watcher.value("ballonet_vm_up", **up["agen-good"]) == 1
            assert age_s is not None
            assert watcher.get("/healthz")[0] == 200
        finally:
            os.kill(worker, signal.SIGCONT)
        watcher.until(lambda: watcher.said("agen-stopped answers again"), "no good news")
        assert watcher.said("agen-stopped does not answer") == 1


def test_a_reload_takes_a_good_file_whole_and_a_wrong_one_not_at_all(tmp_path: Path) -> None:
    with (
        guests(tmp_path, "agen-one", "agen-two") as (host, _),
        agent(tmp_path / "agent", configuration(["agen-one"])) as watcher,
    ):
        wait_until(lambda: interval(host, "agen-one") == 1, PATIENCE_S, "nobody is asked")
        assert watcher.value("ballonet_vm_up", **of("agen-two")) is None
        watcher.path.write_text("[agent]\nperoid_s = 3\n")
        watcher.process.send_signal(signal.SIGHUP)
        watcher.until(lambda: watcher.said("is refused, the old one stays"), "no word")
        (line,) = (one for one in watcher.log() if "refused" in one)
        assert (
            f"{watcher.path}:2: key in [agent]: got 'peroid_s', expected one of period_s (" in line
        )
        assert watcher.value("ballonet_agent_configuration_up") == 0
        watcher.wait_for_rounds(2)
        url = watcher.url
        watcher.path.write_text(configuration(["agen-two"], period_s=0.75, listen="[::1]:0"))
        watcher.process.send_signal(signal.SIGHUP)
        watcher.until(lambda: watcher.said("the configuration is read again"), "no word")
        new = next(one for one in watcher.log() if "read again" in one).rpartition(" ")[2]
        assert new.startswith("http://[::1]:")
        with socket.socket() as probe:
            assert probe.connect_ex((str(urlsplit(url).hostname), urlsplit(url).port or 0))
        wait_until(lambda: interval(host, "agen-one") == 0, PATIENCE_S, "it is not put back")
        wait_until(lambda: interval(host, "agen-two") == 1, PATIENCE_S, "the new one is not asked")
        assert watcher.end() == 0
        assert interval(host, "agen-two") == 0


def test_a_listener_that_cannot_be_had_refuses_a_reload(tmp_path: Path) -> None:
    with agent(tmp_path / "agent", NAMES) as watcher, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        watcher.path.write_text(configuration(["agen-*"], listen=f"127.0.0.1:{port}"))
        watcher.process.send_signal(signal.SIGHUP)
        watcher.until(lambda: watcher.said("Address already in use"), "no word")
        watcher.wait_for_rounds(2)


def test_a_second_agent_is_refused_and_named_and_a_killed_one_leaves_no_trace(
    tmp_path: Path,
) -> None:
    with agent(tmp_path / "agent", NAMES) as watcher:
        done = subprocess.run(
            watcher.command, capture_output=True, text=True, check=False, timeout=PATIENCE_S
        )
        assert done.returncode == 1
        assert f"process {watcher.process.pid} is the agent of this host" in done.stderr
        assert done.stderr.count("\n") == 1
        assert watcher.end(signal.SIGKILL) == -signal.SIGKILL
    with agent(tmp_path / "agent", NAMES) as again:
        again.wait_for_rounds(1)
        assert again.end() == 0


def test_what_a_killed_agent_could_not_put_back_the_next_one_does(tmp_path: Path) -> None:
    with guests(tmp_path, "agen-left") as (host, _):
        with agent(tmp_path / "agent", configuration(["agen-left"], poll_interval_s=3)) as watcher:
            left = watcher.directory / "agent.asked"
            watcher.until(lambda: interval(host, "agen-left") == 3, "nobody is asked")
            watcher.until(left.exists, "it is not written down")
            watcher.end(signal.SIGKILL)
        assert interval(host, "agen-left") == 3
        with agent(tmp_path / "agent", configuration(["agen-none"])) as again:
            again.until(lambda: interval(host, "agen-left") == 0, "it is not put back")
            assert again.end() == 0
        assert not left.exists()


@pytest.mark.parametrize("text", ["", "[]", "nonsense", '{"interval_s": 1, "machines": [{}]}'])
def test_a_file_of_a_killed_agent_that_makes_no_sense_is_no_reason_to_fail(
    tmp_path: Path, text: str
) -> None:
    (tmp_path / "agent" / "run").mkdir(parents=True, mode=0o700)
    (tmp_path / "agent" / "run" / "agent.asked").write_text(text)
    with agent(tmp_path / "agent", NAMES) as watcher:
        watcher.wait_for_rounds(1)
        assert watcher.end() == 0


def test_a_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        (tmp_path / "f").write_text(configuration(["agen-*"], listen=listen))
        done = ballonet("agent", "--config", str(tmp_path / "f"), "--directory", str(tmp_path))
    assert (done.returncode, done.stderr) == (
        1, f"ballonet: listening at {listen}: Address already in use\n",
    )  # fmt: skip


def test_a_configuration_is_checked_without_being_used(tmp_path: Path) -> None:
    path = tmp_path / "ballonet.toml"
    path.write_text(NAMES)
    done = ballonet("agent", "--check", "--config", str(path))
    assert done.returncode == 0
    assert 'match = ["agen-*"]\nexclude = []\n' in done.stdout
    path.write_text("[agent]\nperiod_s = 'often'\n")
    done = ballonet("agent", "--check", "--config", str(path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"ballonet: {path}:2: agent.period_s: got 'often', expected 0.5 to 3600\n"
    )


def test_a_missing_extra_is_one_line_that_says_how_to_have_it(tmp_path: Path) -> None:
    (tmp_path / "msgspec.py").write_text("raise ModuleNotFoundError('no', name='msgspec')\n")
    done = subprocess.run(
        [BALLONET, "agent", "--check"],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"},
    )
    assert done.returncode == 1
    assert "pip install 'ballonet[agent]'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_slow_and_many_clients_do_not_keep_others_from_the_metrics(tmp_path: Path) -> None:
    with agent(tmp_path / "agent", NAMES) as watcher, ExitStack() as stack:
        place = urlsplit(watcher.url)
        address = (str(place.hostname), place.port or 0)
        for _ in range(20):
            sock = stack.enter_context(socket.create_connection(address, PATIENCE_S))
            sock.sendall(b"GET /metrics HTTP/1.1\r\n")
        assert watcher.get("/healthz")[0] == 200
        assert watcher.series()
        for _ in range(40):
            stack.enter_context(socket.create_connection(address, PATIENCE_S)).sendall(b"\x16\x03")
        watcher_is_there = holds(lambda: watcher.process.poll() is None, 0.5)
        assert watcher_is_there
        stack.pop_all().close()
        watcher.until(lambda: _is_served(watcher), "nobody is served any more")


def _is_served(watcher: AgentProcess) -> bool:
    try:
        return watcher.get("/healthz")[0] == 200
    except OSError:
        return False


def test_a_monitor_that_makes_no_sense_is_one_vm_that_is_not_up(tmp_path: Path) -> None:
    path = tmp_path / "qmp"
    arguments = ["-c", "import signal; signal.pause()", "-name", "agen-odd"]
    with (
        odd_monitor(path, lambda _: b"nonsense\n", b"[1, 2\n"),
        program(
            "qemu-system-x86_64", [*arguments, "-qmp", f"unix:{path},server=on,wait=off"]
        ) as qemu,
        agent(tmp_path / "agent", NAMES) as watcher,
    ):
        labels = {"vm": "agen-odd", "kind": "qemu"}
        watcher.until(lambda: watcher.value("ballonet_vm_up", **labels) is not None, "not seen")
        watcher.wait_for_rounds(3)
        assert watcher.value("ballonet_vm_up", **labels) == 0
        qemu.kill()
        watcher.until(lambda: watcher.value("ballonet_vm_up", **labels) is None, "still there")


def test_systemd_is_told_when_it_is_ready_reloads_and_ends(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(PATIENCE_S)
        told: list[bytes] = []

        def hears(word: bytes) -> bool:
            told.append(systemd.recv(1 << 12))
            return word in told[-1]

        limit_us = "300000"
        with agent(
            tmp_path / "agent",
            NAMES,
            NOTIFY_SOCKET=str(tmp_path / "notify"),
            WATCHDOG_USEC=limit_us,
        ) as watcher:
            for word in (b"READY=1", b"WATCHDOG=1"):
                wait_until(lambda word=word: hears(word), PATIENCE_S, "it is not told")  # type: ignore[misc]
            watcher.process.send_signal(signal.SIGHUP)
            for word in (b"RELOADING=1\nMONOTONIC_USEC=", b"READY=1"):
                wait_until(lambda word=word: hears(word), PATIENCE_S, "it is not told")  # type: ignore[misc]
            assert watcher.end() == 0
            wait_until(lambda: hears(b"STOPPING=1"), PATIENCE_S, "it is not told")
