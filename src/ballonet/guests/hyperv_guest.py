"""A real Linux with its own hv_balloon, in QEMU, where there is no Hyper-V.

The driver finds the bus that it needs in a module of ours (modules/vmbus_stand_in.c), and its
messages come out of the machine by a port of a virtio serial device.  That port tells the guest
whether anybody is connected, which a UART's line does not: two programs in the guest carry the
messages while somebody is.
The kernel may be told of less memory than the machine has: the rest is there to be hot-added.
Not here: the guest's process (qemu_linux), the host that is connected (siblings.vmbus_serial).
Source: Linux drivers/hv/hv_balloon.c balloon_probe, hv_balloon_debug_show.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Self

from ballonet.errors import GuestError
from ballonet.guests.guest_module import build_vmbus_stand_in
from ballonet.guests.guest_shell import GuestShell
from ballonet.guests.qemu_kernel import QemuKernel, find_hyperv_kernel
from ballonet.guests.qemu_linux import QemuLinux, QemuLinuxSettings
from ballonet.hyperv.host import HypervHost
from ballonet.hyperv.settings import HypervHostSettings
from ballonet.siblings.serving import serving
from ballonet.siblings.vmbus_serial import MakeHost, VmbusSerial

__all__ = ["BLOCK_BYTES", "HypervGuest"]

#: Linux on x86-64 takes memory in such pieces while it runs, up to 64 GiB of it.
BLOCK_BYTES: Final = 128 << 20
_PORT: Final = "messages"
_DEBUG: Final = "/sys/kernel/debug"
_CHANNELS: Final = "/sys/bus/vmbus_stand_in/devices"
#: The driver would say nothing of its memory for 45 seconds.
_REPORTS_AT_ONCE: Final = "echo 0 > /sys/module/hv_balloon/parameters/pressure_report_delay"
#: The firmware keeps its tables at the end of the machine's memory; nothing can be added there.
_FIRMWARE_BYTES: Final = 1 << 20
#: Linux's driver ignores its host where the machine can hibernate, as QEMU's PC says it can (S4).
_NO_HIBERNATION: Final = ("-global", "PIIX4_PM.disable_s4=1")
_NOTICES_S: Final = 60.0
_POLL_S: Final = 0.02
_FIRST: Final = f"""mount -t debugfs debugfs {_DEBUG}
carry_messages() {{
    echo -1000 > /proc/self/oom_score_adj
    while :; do
        until grep -q '^host_connected: 1' {_DEBUG}/virtio-ports/vport0p1; do usleep 20000; done
        exec 3<> /dev/vmbus_stand_in 4<> /dev/vport0p1
        cat <&3 >&4 &
        cat <&4 >&3
        kill $!
        wait $!
        exec 3>&- 4>&-
    done
}}
carry_messages &"""


class HypervGuest:
    """One guest, from `start` to `stop`; a context manager that does both."""

    def __init__(
        self, memory_bytes: int, *, spare_bytes: int = 0, can_hibernate: bool = False
    ) -> None:
        """`spare_bytes`: that the machine has right above what its kernel knows of.

        Both are multiples of `BLOCK_BYTES` if there is something to spare.
        """
        self.memory_bytes: Final = memory_bytes
        self.spare_bytes: Final = spare_bytes
        self._can_hibernate = can_hibernate
        self.linux: QemuLinux

    def __enter__(self) -> Self:
        """Boot. Raises: GuestError."""
        kernel = find_hyperv_kernel()
        *others, driver = kernel.modules
        modules = (*others, build_vmbus_stand_in(kernel.release), driver)
        memory_bytes = self.memory_bytes
        command_line: tuple[str, ...] = ()
        if self.spare_bytes:
            memory_bytes += self.spare_bytes + _FIRMWARE_BYTES
            command_line = (f"mem={self.memory_bytes >> 20}M", "memhp_default_state=online")
        self.linux = QemuLinux(
            QemuLinuxSettings(
                memory_bytes,
                QemuKernel(kernel.image, modules),
                command_line=command_line,
                first=_FIRST,
                arguments=(
                    *(() if self._can_hibernate else _NO_HIBERNATION),
                    *("-device", "virtio-serial-pci"),
                    *("-chardev", f"socket,id={_PORT},path={{}}/{_PORT},server=on,wait=off"),
                    *("-device", f"virtserialport,chardev={_PORT},nr=1"),
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

    def attach(self, settings: HypervHostSettings, make_host: MakeHost = HypervHost) -> VmbusSerial:
        """A host for its driver; the two talk while it runs. Raises: GuestError."""
        self.shell.check(_REPORTS_AT_ONCE)
        path, memory = self.linux.directory / _PORT, self.linux.memory
        return VmbusSerial(settings, path, memory, make_host)

    @contextmanager
    def served(
        self, settings: HypervHostSettings, make_host: MakeHost = HypervHost
    ) -> Iterator[VmbusSerial]:
        """The same, on a thread of its own; when the block ends, the guest has noticed.

        Raises: GuestError.
        """
        with serving(self.attach(settings, make_host)) as port:
            yield port
        end_s = time.monotonic() + _NOTICES_S
        while self.shell.check(f"ls {_CHANNELS}"):
            if time.monotonic() > end_s:
                raise GuestError("the guest does not notice that its host has gone")
            time.sleep(_POLL_S)

    def hv_balloon(self) -> dict[str, str]:
        """What the driver says of itself. Raises: GuestError, if it is bound to no channel."""
        rows = self.shell.check(f"cat {_DEBUG}/hv-balloon").splitlines()
        pairs = (row.split(":", 1) for row in rows if ":" in row)
        return {name.strip(): value.strip() for name, value in pairs}
