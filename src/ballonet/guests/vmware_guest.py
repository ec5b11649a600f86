"""A real Linux that believes to run on VMware, and its real vmw_balloon.

Without a hypervisor's bit in CPUID the kernel looks at the serial number of the machine and asks
the port 0x5658, which QEMU answers; then it says "Hypervisor detected: VMware", and the balloon's
driver agrees to be loaded.  What the driver says itself it says to whoever is `served` at the time;
without a host its calls fail, and it tries again every second.
Not here: the guest's process (qemu_linux), how calls are answered (siblings).
Source: Linux arch/x86/kernel/cpu/vmware.c vmware_platform;
drivers/misc/vmw_balloon.c vmballoon_init, vmballoon_debug_show.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from types import TracebackType
from typing import Final, Self

from ballonet.errors import GuestError
from ballonet.guests.guest_shell import GuestShell
from ballonet.guests.qemu_kernel import find_vmware_kernel
from ballonet.guests.qemu_linux import QemuLinux, QemuLinuxSettings
from ballonet.siblings.gdbstub import GdbStub
from ballonet.siblings.port_server import PortServer
from ballonet.siblings.serving import serving
from ballonet.siblings.vmware_port import ModuleText, VmwarePort
from ballonet.vmware.host import VmwareHost

__all__ = ["VmwareGuest", "parse_vmmemctl"]

_MODULE: Final = "vmw_balloon"
_SERIAL: Final = "VMware-56 4d" + " 00" * 6 + "-00" + " 00" * 7
_DEBUG: Final = "/sys/kernel/debug"
_ROW: Final = re.compile(r"(.+?)\s*:\s+(\S+)(?: \((\d+) failed\))?")


class VmwareGuest:
    """One guest, from `start` to `stop`; a context manager that does both."""

    def __init__(self, memory_bytes: int) -> None:
        self._memory_bytes = memory_bytes
        self.linux: QemuLinux

    def __enter__(self) -> Self:
        self.linux = QemuLinux(
            QemuLinuxSettings(
                self._memory_bytes,
                find_vmware_kernel(),
                machine="pc,vmport=on",
                cpu="max,-hypervisor",
                first=f"mount -t debugfs debugfs {_DEBUG}",
                arguments=(
                    *("-smbios", f"type=1,manufacturer=VMware,serial={_SERIAL}"),
                    *("-gdb", "unix:{}/gdb,server=on,wait=off"),
                ),
            )
        )
        self.linux.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.linux.stop()

    @property
    def shell(self) -> GuestShell:
        """Commands into it. Raises: GuestError."""
        return self.linux.shell

    @contextmanager
    def attached(self, host: VmwareHost) -> Iterator[PortServer]:
        """Let the driver call a host inside the block, where its server is to be run.

        Raises: GuestError.
        """
        text, memory = self._module_text(), self.linux.memory
        with closing(GdbStub(self.linux.connect("gdb"))) as stub:
            host.attach(memory)
            host.reset_guest()  # it may have begun with another host, of which this knows nothing
            port = VmwarePort(stub, host)
            port.start(text)
            yield PortServer(host, port, memory)

    @contextmanager
    def served(self, host: VmwareHost) -> Iterator[PortServer]:
        """The same, on a thread of its own. Raises: GuestError."""
        with self.attached(host) as server, serving(server):
            yield server

    def vmmemctl(self) -> dict[str, int]:
        """What the driver counts, from the first look on. Raises: GuestError."""
        return parse_vmmemctl(self.shell.check(f"cat {_DEBUG}/vmmemctl"))

    def _module_text(self) -> ModuleText:
        """Where the driver's instructions are. Raises: GuestError."""
        rows = self.shell.check(f"cd /sys/module/{_MODULE}/sections; grep 0x .[a-z_]*").splitlines()
        sections = {
            name: int(address, 0) for name, _, address in (row.partition(":") for row in rows)
        }
        text = sections.get(".text")
        if text is None:
            raise GuestError(f"the guest's kernel does not say where {_MODULE} is")
        behind = min((one for one in sections.values() if one > text), default=text)
        return ModuleText(text, behind - text)


def parse_vmmemctl(text: str) -> dict[str, int]:
    """The driver's figures by its own words.

    Of a command "calls" and "failed" come behind its name: "target" is a size, too.
    """
    found: dict[str, int] = {}
    for line in text.splitlines():
        if row := _ROW.fullmatch(line):
            name, value, failed = row.groups()
            name = " ".join(name.split())
            number = value == "y" if value in {"y", "n"} else int(value, 0)
            if failed is None:
                found[name] = number
            else:
                found[f"{name} calls"], found[f"{name} failed"] = number, int(failed)
    return found
