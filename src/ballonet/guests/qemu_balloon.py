"""A real Linux in QEMU with QEMU's own balloon, its shell and QEMU's monitor.

Where a kernel is to be looked into: Debian's can trace its functions, User-Mode Linux cannot.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Final, Self

from ballonet.errors import GuestError
from ballonet.guests.guest_shell import GuestShell
from ballonet.guests.qemu_kernel import find_qemu_kernel
from ballonet.guests.qemu_linux import FILE_BACKEND, QemuLinux, QemuLinuxSettings
from ballonet.runtime.monitor_socket import MonitorSocket

__all__ = ["QemuBalloonGuest"]

#: In QEMU's tree of objects.
_BALLOON: Final = "/machine/peripheral/balloon0"
_REACHED_S: Final = 300.0
_LOOK_S: Final = 0.05


class QemuBalloonGuest:
    """One guest, from its start to its end; a context manager."""

    balloon_path: Final = _BALLOON

    def __init__(
        self,
        memory_bytes: int,
        *balloon_options: str,
        command_line: tuple[str, ...] = (),
        arguments: tuple[str, ...] = (),
        backend: str = FILE_BACKEND,
    ) -> None:
        """`balloon_options`: of virtio-balloon-pci; `iothread0` can be named for hints.

        `command_line` is for the kernel, `arguments` for QEMU, `backend` is what its memory is.
        """
        device = ",".join(("virtio-balloon-pci", "id=balloon0", *balloon_options))
        self.memory_bytes: Final = memory_bytes
        self.linux: Final = QemuLinux(
            QemuLinuxSettings(
                memory_bytes,
                find_qemu_kernel(),
                command_line=command_line,
                backend=backend,
                arguments=(
                    *("-object", "iothread,id=iothread0", "-device", device),
                    *("-qmp", "unix:{}/qmp,server=on,wait=off"),
                    *arguments,
                ),
            )
        )
        self.monitor: MonitorSocket

    def __enter__(self) -> Self:
        """Boot. Raises: GuestError; MonitorError."""
        self.linux.start()
        try:
            self.monitor = MonitorSocket(self.linux.directory / "qmp")
        except BaseException:
            self.linux.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.monitor.close()
        self.linux.stop()

    @property
    def shell(self) -> GuestShell:
        """Commands into it. Raises: GuestError."""
        return self.linux.shell

    @property
    def release(self) -> str:
        """Of its kernel."""
        return self.linux.release

    def resize(self, balloon_bytes: int) -> None:
        """Have a balloon of this size; returns when the driver says so.

        Raises: GuestError, if it does not within minutes; MonitorError.
        """
        wanted = self.memory_bytes - balloon_bytes
        self.monitor.execute("balloon", value=wanted)
        end_s = time.monotonic() + _REACHED_S
        while (actual := int(self.monitor.execute("query-balloon")["actual"])) != wanted:
            if time.monotonic() > end_s:
                raise GuestError(f"the balloon leaves the guest {actual} bytes, not {wanted}")
            time.sleep(_LOOK_S)

    def property_of_balloon(self, name: str) -> object:
        """What QEMU's device says of itself. Raises: MonitorError."""
        value: object = self.monitor.execute("qom-get", path=_BALLOON, property=name)
        return value
