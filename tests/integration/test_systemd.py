"""The units of packaging/systemd, by systemd's own tools, and what our programs say to it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.agent_process import BALLONET, configuration
from tests.support.programs import started
from tests.support.qmp_client import QmpClient
from tests.support.wait import PATIENCE_S, wait_until

from ballonet.guests.embedded import EmbeddedGuestSettings
from ballonet.guests.embedded_process import EmbeddedGuest
from ballonet.runtime.sd_listen import take_listen_fds

UNITS = Path(__file__).parents[2] / "packaging" / "systemd"
SERVICES = ("ballonet-agent.service", "ballonet-device@.service", "ballonet-host.service")
#: As systemd-analyze counts, from 0, which is safe, to 10.
EXPOSURE_MOST = 2.0
MIB = 1 << 20


def output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    return done.stdout + done.stderr


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_may_do_little(name: str, record_property: Callable[[str, object], None]) -> None:
    said = output("systemd-analyze", "security", "--offline=yes", "--no-pager", str(UNITS / name))
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", said)
    assert found, said
    record_property(f"exposure of {name}", found[1])
    assert float(found[1]) <= EXPOSURE_MOST


def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    for unit in UNITS.iterdir():
        text = unit.read_text(encoding="utf-8").replace("/usr/bin/ballonet", BALLONET)
        (tmp_path / unit.name).write_text(text, encoding="utf-8")
    units = [str(tmp_path / name) for name in (*SERVICES, "ballonet-device@.socket")]
    # Of units of other people, which come with this machine, nothing is asked here.
    said = output("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *units)
    assert not [line for line in said.splitlines() if "ballonet" in line], said


@contextmanager
def told(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Where systemd would listen, and everything it was told, when the block has ended."""
    heard: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(folder / "notify"))
        yield str(folder / "notify"), heard
        sock.setblocking(False)
        while True:
            try:
                heard += sock.recv(4096).decode().splitlines()
            except BlockingIOError:
                return


def test_every_service_says_when_it_is_ready_and_when_it_ends(tmp_path: Path) -> None:
    (tmp_path / "ballonet.toml").write_text(configuration(["nobody-*"]))
    commands = {
        "agent": ("agent", "--config", str(tmp_path / "ballonet.toml")),
        "host": ("host",),
        "device": ("device", "--socket-path", str(tmp_path / "device.sock")),
    }
    for name, command in commands.items():
        folder = tmp_path / name
        folder.mkdir(mode=0o700)
        environment = {"BALLONET_DIRECTORY": str(folder / "run")}
        with (
            told(folder) as (address, heard),
            started(
                [BALLONET, *command],
                env={**os.environ, **environment, "NOTIFY_SOCKET": address},
                stderr=subprocess.PIPE,
            ) as process,
        ):
            assert process.stderr is not None
            assert process.stderr.readline()
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 0
        assert heard[:1] == ["READY=1"], name
        assert "STOPPING=1" in heard, name


def test_a_device_serves_the_sockets_that_systemd_has_made(tmp_path: Path) -> None:
    """By systemd's own tool, as the units have it: it is started by the first who connects."""
    vmm, monitor = tmp_path / "device.sock", tmp_path / "device.qmp"
    command = [
        *("systemd-socket-activate", "--listen", str(vmm), "--listen", str(monitor)),
        # It hands nothing of its environment on.
        f"--setenv=PYTHONPATH={os.environ.get('PYTHONPATH', '')}",
        *("--fdname=vhost-user:qmp", BALLONET, "device"),
    ]
    with started(command, stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: vmm.is_socket() and monitor.is_socket(), PATIENCE_S, "nobody listens")
        with (
            EmbeddedGuest(EmbeddedGuestSettings(64 * MIB, vmm)),
            QmpClient(monitor) as client,
        ):
            client.negotiate()
            assert "return" in client.ask("balloon", value=48 * MIB)
            wait_until(
                lambda: client.ask("query-balloon")["return"] == {"actual": 48 * MIB},
                PATIENCE_S,
                "nothing comes",
            )
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0


def test_sockets_of_another_process_are_not_ours() -> None:
    names = {"LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b"}
    assert take_listen_fds({"LISTEN_PID": "1", **names}) == {}
    assert take_listen_fds({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "many"}) == {}
    assert take_listen_fds({}) == {}


def test_a_program_that_is_given_no_socket_says_what_it_wants() -> None:
    done = subprocess.run([BALLONET, "device"], capture_output=True, text=True, check=False)
    assert (done.returncode, "--socket-path and --fd" in done.stderr) == (2, True)


def test_the_tools_are_there() -> None:
    """In CI a tool that is missing is a failure."""
    assert shutil.which("systemd-analyze")
    assert shutil.which("systemd-socket-activate")
