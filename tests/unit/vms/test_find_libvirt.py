"""Whose a QEMU is, by the command line that libvirt gives it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ballonet.vms import libvirt_api
from ballonet.vms.find_libvirt import find_libvirt, is_of_libvirt
from ballonet.vms.processes import Process

SYSTEM = "/var/lib/libvirt/qemu"


def qemu(pid: int, name: str, folder: str) -> Process:
    """As libvirt 9.0 starts one."""
    key = f"{folder}/domain-{pid}-{name}/master-key.aes"
    secret = f'{{"qom-type":"secret","id":"masterKey0","format":"raw","file":"{key}"}}'
    return Process(
        pid,
        (
            "/usr/bin/qemu-system-x86_64",
            *("-name", f"guest={name},debug-threads=on", "-S"),
            *("-object", secret, "-m", "256"),
            *("-chardev", "socket,id=charmonitor,fd=22,server=on,wait=off"),
            *("-mon", "chardev=charmonitor,id=monitor,mode=control"),
        ),
    )


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "/home/me/.config")
    monkeypatch.delenv("LIBVIRT_DEFAULT_URI", raising=False)
    monkeypatch.setattr(libvirt_api, "is_installed", lambda: True)


def test_a_domain_is_found_with_its_connection() -> None:
    (found,) = find_libvirt([qemu(7, "web", SYSTEM)])
    assert (found.who.kind, found.who.name, found.who.pid) == ("libvirt", "web", 7)
    assert (found.who.uri, found.address) == ("libvirt:web", "qemu:///system#web")
    assert (found.place, found.why_not, found.memory_bytes) == ("qemu:///system", "", 256 << 20)


def test_domains_of_one_name_are_told_apart_by_their_connection() -> None:
    home = "/home/me/.config/libvirt/qemu/lib"
    found = find_libvirt([qemu(7, "web", SYSTEM), qemu(8, "web", home)])
    assert {one.who.uri for one in found} == {
        "libvirt:qemu:///system#web",
        "libvirt:qemu:///session#web",
    }


def test_a_connection_that_the_user_has_chosen_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", "qemu:///system?socket=/run/mine")
    (found,) = find_libvirt([qemu(7, "web", SYSTEM)])
    assert found.place == "qemu:///system?socket=/run/mine"


@pytest.mark.parametrize("uri", ["qemu+ssh://elsewhere/system", "xen:///system", "nonsense"])
def test_another_computer_is_not_asked(monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", uri)
    (found,) = find_libvirt([qemu(7, "web", SYSTEM)])
    assert found.place == "qemu:///system"


def test_what_libvirt_cannot_be_asked_for_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    (other,) = find_libvirt([qemu(7, "web", "/home/other/.config/libvirt/qemu/lib")])
    assert (other.who.kind, other.place, other.address) == ("qemu", "", "")
    assert "another user's" in other.why_not
    monkeypatch.setattr(libvirt_api, "is_installed", lambda: False)
    (found,) = find_libvirt([qemu(7, "web", SYSTEM)])
    assert (found.who.kind, found.place) == ("qemu", "")
    assert "pip install 'ballonet[libvirt]'" in found.why_not


def test_other_programs_are_not_domains() -> None:
    line = qemu(7, "web", SYSTEM).arguments
    grep = Process(9, ("grep", *line))
    plain = Process(10, ("qemu-system-x86_64", "-name", "web", "-m", "256"))
    assert find_libvirt([grep, plain]) == []
    assert not is_of_libvirt(plain)
    assert is_of_libvirt(Process(7, (str(Path("/usr/libexec/qemu-kvm")), *line[1:])))
