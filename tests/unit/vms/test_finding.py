"""Machines found by the command lines of their processes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ballonet.vms.find_ours import find_devices, find_hosts
from ballonet.vms.find_rest import find_cloud_hypervisor, find_firecracker
from ballonet.vms.processes import Process, processes

HERE = os.getpid()


def process(*arguments: str) -> Process:
    """It has the folder and the root of this one."""
    return Process(HERE, arguments)


@pytest.mark.parametrize(
    ("arguments", "name", "path"),
    [
        (("firecracker", "--api-sock", "/run/a.sock", "--id", "web"), "web", "/run/a.sock"),
        (("/usr/bin/firecracker", "--id=web", "--api-sock=/a.sock"), "web", "/a.sock"),
        (("firecracker-v1.13.1-x86_64", "--api-sock", "/run/vm1/api"), "vm1", "/run/vm1/api"),
        (("firecracker", "--id", "web"), "web", "/run/firecracker.socket"),
    ],
)
def test_firecracker_is_found_by_its_socket_and_its_id(
    arguments: tuple[str, ...], name: str, path: str
) -> None:
    (found,) = find_firecracker([process("bash"), process(*arguments)])
    assert (found.who.name, found.address, found.why_not) == (name, path, "")
    assert found.who.uri == f"firecracker:{path}"


def test_a_firecracker_without_api_is_named_and_not_reached() -> None:
    (found,) = find_firecracker([process("firecracker", "--no-api", "--id", "web")])
    assert (found.who.name, found.address) == ("web", "")
    assert "--no-api" in found.why_not


@pytest.mark.parametrize(
    "socket", ["/run/db.sock", "path=/run/db.sock", "path=/run/db.sock,mode=1"]
)
@pytest.mark.parametrize("joined", [True, False])
def test_cloud_hypervisor_is_found_by_its_socket(socket: str, *, joined: bool) -> None:
    option = (f"--api-socket={socket}",) if joined else ("--api-socket", socket)
    (found,) = find_cloud_hypervisor([process("cloud-hypervisor", "--kernel", "/k", *option)])
    assert (found.who.name, found.address, found.why_not) == ("db", "/run/db.sock", "")


@pytest.mark.parametrize("option", [(), ("--api-socket", "fd=7"), ("--api-socket",)])
def test_a_cloud_hypervisor_without_a_path_is_not_reached(option: tuple[str, ...]) -> None:
    (found,) = find_cloud_hypervisor([process("cloud-hypervisor", *option)])
    assert (found.who.name, found.address) == (f"process-{HERE}", "")
    assert "--api-socket PATH" in found.why_not


@pytest.mark.parametrize(
    "program",
    [
        ("ballonet",),
        ("/venv/bin/python3", "/venv/bin/ballonet"),
        ("python", "-m", "ballonet"),
        ("/usr/bin/python3.11", "-m", "ballonet", "-v"),
    ],
)
def test_our_devices_are_found_however_they_were_started(program: tuple[str, ...]) -> None:
    words = ("device", "--socket-path", "/run/b", "--qmp", "unix:/run/web.qmp,server=on,wait=off")
    (found,) = find_devices([process(*program, *words)])
    assert (found.who.kind, found.who.name, found.address) == ("ballonet", "web", "/run/web.qmp")


def test_a_device_without_a_monitor_is_named_and_not_reached() -> None:
    (found,) = find_devices([process("vhost-user-balloon", "--socket-path", "/run/web.sock")])
    assert (found.who.name, found.address) == ("web", "")
    assert "--qmp" in found.why_not


def test_what_only_names_us_is_no_device_of_ours() -> None:
    others = [
        process("vi", "ballonet", "device", "--qmp", "unix:/x"),
        process("ballonet", "info", "device"),
        process("ballonet", "guest", "embedded", "--qmp", "unix:/x"),
        process("bash", "-c", "ballonet device"),
    ]
    assert find_devices(others) == []
    assert find_hosts(others) == []


def test_hosts_are_found_once_by_their_directories(tmp_path: Path) -> None:
    one = process("ballonet", "host", "--directory", str(tmp_path))
    other = process("ballonet", "host", f"--directory={tmp_path}/other")
    verb = process("ballonet", "host", "list", "--directory", "/elsewhere")
    assert find_hosts([one, one, other, verb]) == [tmp_path, tmp_path / "other"]


def test_a_path_is_as_the_process_means_it() -> None:
    assert process("a").outside("/run/x") == Path("/run/x")
    assert process("a").outside("x") == Path.cwd() / "x"
    assert Process(1 << 30, ("gone",)).outside("x") == Path("x")


def test_every_process_but_this_one_is_seen() -> None:
    found = processes()
    assert HERE not in [one.pid for one in found]
    assert os.getppid() in [one.pid for one in found]
