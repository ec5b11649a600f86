"""A real QEMU is found, named, measured, and left alone where somebody else has its monitor."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.qemu.conftest import MEMORY_BYTES
from tests.support.programs import started, wait_for_listener
from tests.support.wait import PATIENCE_S, wait_until

from ballonet.guests.qemu import QemuGuest
from ballonet.vms.unix_sockets import SocketTable

#: They see what runs on this machine, by name: one after the other.
pytestmark = pytest.mark.xdist_group("machines by name")

BALLONET = str(Path(sys.executable).with_name("ballonet"))
MIB = 1 << 20
NAME = "listed-qemu"


def ballonet(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([BALLONET, *arguments], capture_output=True, text=True, check=False)


def listed(name: str) -> dict[str, object]:
    done = ballonet("list", name, "--json")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert isinstance(row, dict)
    return row


@pytest.fixture(scope="module")
def guest() -> Iterator[QemuGuest]:
    # Fills its memory, so that the host holds most of it.
    fill = "/bin/busybox dd if=/dev/zero of=/filled bs=1M count=200; /bin/busybox rm /filled"
    with QemuGuest(MEMORY_BYTES, first=fill, arguments=("-name", NAME)) as running:
        yield running


def test_it_is_shown_with_what_the_host_holds_which_falls_with_the_balloon(
    guest: QemuGuest,
) -> None:
    row = listed(NAME)
    assert (row["kind"], row["uri"], row["why_not"]) == ("qemu", str(guest.qmp_path), None)
    assert (row["memory_bytes"], row["actual_bytes"]) == (512 * MIB, 512 * MIB)
    before_bytes = row["host_bytes"]
    assert isinstance(before_bytes, int)
    assert 220 * MIB < before_bytes <= 512 * MIB
    assert ballonet("set", NAME, "200M", "--wait").returncode == 0
    after = listed(NAME)
    assert isinstance(after["host_bytes"], int)
    assert after["actual_bytes"] == 200 * MIB
    assert after["host_bytes"] <= 212 * MIB
    assert ballonet("set", f"qemu:{NAME}", "512M", "--wait").returncode == 0


def test_its_statistics_have_an_age_and_are_shown_with_those_of_others(guest: QemuGuest) -> None:
    assert guest.memory_bytes == MEMORY_BYTES
    done = ballonet("stats", f"{NAME}*", "--json")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert (row["name"], row["why_not"]) == (NAME, None)
    assert 0 < row["stats"]["available_memory_bytes"] < 512 * MIB
    look = listed(NAME)
    assert isinstance(look["stats_age_s"], float)
    assert isinstance(look["available_bytes"], int)
    assert (look["has_driver"], look["paused"]) == (True, False)
    assert json.loads(ballonet("info", NAME, "--json").stdout)["poll_interval_s"] == 0


def test_a_monitor_that_another_holds_is_named_and_the_vm_still_measured(guest: QemuGuest) -> None:
    holding = "import socket,sys; s=socket.socket(1); s.connect(sys.argv[1]); s.recv(1)"
    holding += "; print(1, flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", holding, str(guest.qmp_path)]
    with started(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.read(1)
        row = listed(NAME)
        done = ballonet("set", NAME, "300M")
        holder.communicate()
    assert str(row["why_not"]).endswith(f"process {holder.pid} has it")
    assert (done.returncode, f"process {holder.pid} has it" in done.stderr) == (1, True)
    assert (row["memory_bytes"], row["actual_bytes"]) == (512 * MIB, None)
    assert isinstance(row["host_bytes"], int)


def test_a_monitor_whose_socket_it_was_given_is_found(tmp_path: Path) -> None:
    """As libvirt does it."""
    path = tmp_path / "monitor.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        fd = listening.fileno()
        os.set_inheritable(fd, True)
        command = [
            *("qemu-system-x86_64", "-machine", "none", "-S", "-display", "none", "-nodefaults"),
            *("-name", "guest=listed-fd,debug-threads=on"),
            *("-chardev", f"socket,id=charmonitor,fd={fd},server=on,wait=off"),
            *("-mon", "chardev=charmonitor,id=monitor,mode=control"),
        ]
        with started(command, stdin=subprocess.DEVNULL, pass_fds=[fd]) as qemu:
            wait_for_listener(path)
            message = "it does not serve its monitor"
            wait_until(lambda: _serves(qemu.pid, path), PATIENCE_S, message)
            row = listed("listed-fd")
            qemu.kill()
    assert (row["uri"], row["pid"]) == (str(path), qemu.pid)
    assert "No balloon device has been activated" in str(row["problem"])


def _serves(pid: int, path: Path) -> bool:
    """Its own, and not only the socket that was inherited; it has another name by then."""
    server = SocketTable().server_of(path)
    return server is not None and server.pid == pid and "qemu" in server.program
