"""What a QEMU's command line says of it."""

from __future__ import annotations

import pytest

from ballonet.vms.qemu_command_line import MonitorPlace, is_qemu, parse_qemu_command_line

GIB = 1 << 30
LIBVIRT = (
    "-name guest=web,debug-threads=on -S -machine pc -m size=4194304k -chardev"
    " socket,id=charserial0,path=/s -chardev socket,id=charmonitor,fd=32,server=on,wait=off -mon"
    " chardev=charmonitor,id=monitor,mode=control -device virtio-balloon-pci,id=balloon0"
)


def test_the_command_line_that_libvirt_makes_is_understood() -> None:
    line = parse_qemu_command_line(LIBVIRT.split())
    assert (line.name, line.memory_bytes) == ("web", 4 * GIB)
    assert line.monitors == (MonitorPlace(fd=32),)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("-qmp unix:/run/vm.qmp,server=on,wait=off", "/run/vm.qmp"),
        ("--qmp unix:/run/vm.qmp,server,nowait", "/run/vm.qmp"),
        ("-qmp-pretty unix:/run/vm.qmp,server=on", "/run/vm.qmp"),
        ("-qmp unix:/run/a,,b,server=on", "/run/a,b"),
        ("-chardev socket,id=m,path=/run/m,server=on -mon m,mode=control", "/run/m"),
        ("-mon chardev=m,mode=control -chardev socket,id=m,path=/run/m,server=on", "/run/m"),
    ],
)
def test_monitors_are_found(text: str, path: str) -> None:
    assert parse_qemu_command_line(text.split()).monitors == (MonitorPlace(path),)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("-qmp tcp:localhost:4444,server=on", "no Unix socket"),
        ("-qmp stdio", "no Unix socket"),
        ("-qmp unix:/run/vm.qmp", "connects to another program"),
        ("-chardev pty,id=m -mon m,mode=control", "no Unix socket"),
        ("-mon lost,mode=control", "no Unix socket"),
    ],
)
def test_monitors_that_nobody_can_connect_to_are_told_apart(text: str, words: str) -> None:
    (place,) = parse_qemu_command_line(text.split()).monitors
    assert words in place.why_not


@pytest.mark.parametrize(
    "text", ["-monitor unix:/m,server=on", "-chardev socket,id=m,path=/m -mon m"]
)
def test_the_human_monitor_is_none(text: str) -> None:
    assert parse_qemu_command_line(text.split()).monitors == ()


@pytest.mark.parametrize(
    ("text", "memory_bytes"),
    [
        ("-m 512", 512 << 20),
        ("-m 4G", 4 * GIB),
        ("-m size=2048M,slots=2", 2 * GIB),
        ("-m 1T", 1 << 40),
        ("-m 1G,slots=2,maxmem=8G", None),
        ("-m", None),
        ("-m much", None),
        ("", None),
    ],
)
def test_memory_is_known_only_if_no_more_can_be_plugged_in(
    text: str, memory_bytes: int | None
) -> None:
    assert parse_qemu_command_line(text.split()).memory_bytes == memory_bytes


def test_programs_that_emulate_machines_are_told_from_others_of_qemus() -> None:
    assert all(map(is_qemu, ("qemu-system-x86_64", "qemu-system-aarch64", "qemu-kvm", "kvm")))
    assert not any(map(is_qemu, ("qemu-img", "qemu-ga", "qemu-nbd", "qemu-x86_64", "bash")))
