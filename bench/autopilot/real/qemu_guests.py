"""Kernels in QEMU, each with QEMU's own balloon, at work beside the others.

They are emulated, so they take memory more slowly than they are told to; under every law alike.
Without swap, and without a disk to read.
Units: bytes, seconds, MiB in reports.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from ballonet.errors import BallonetError
from ballonet.guests.initramfs import Entry
from ballonet.guests.memload import Report, Wish, parse_report, schedule_text
from ballonet.guests.qemu_kernel import find_qemu_kernel
from ballonet.guests.qemu_linux import QemuLinux, QemuLinuxSettings
from ballonet.runtime.monitor_socket import MonitorSocket

__all__ = ["QEMU_OWN_BYTES", "QemuAtWork", "qemu_settings"]

#: What its process holds beside the guest's memory: most of it is translated code.
QEMU_OWN_BYTES: Final = 160 << 20
_BEGIN: Final = "setsid /memload /schedule /report </dev/null >/said 2>&1 &"


class QemuAtWork:
    """One guest; its first monitor is for whoever decides, its second is ours."""

    def __init__(
        self, settings: QemuLinuxSettings, name: str, wishes: Sequence[Wish], length_s: float
    ) -> None:
        self.name, self.wishes = name, tuple(wishes)
        self._length_s = length_s
        self._linux = QemuLinux(settings)
        self._monitor: MonitorSocket | None = None

    def start(self) -> None:
        """Boot. Raises: BallonetError."""
        self._linux.start()
        self._monitor = MonitorSocket(self._linux.directory / "watched")

    def stop(self) -> None:
        """End it."""
        if self._monitor is not None:
            self._monitor.close()
        self._linux.stop()

    def begin(self) -> None:
        """Have its program play. Raises: GuestError."""
        text = schedule_text(self.wishes, self._length_s)
        self._linux.shell.check(f"cat > /schedule <<'END'\n{text}END\n{_BEGIN}")

    @property
    def is_running(self) -> bool:
        """QEMU was not killed."""
        return self._linux.is_running

    def actual_bytes(self) -> int | None:
        """What the guest keeps; None: it is gone."""
        if self._monitor is not None:
            with suppress(BallonetError):
                return int(self._monitor.execute("query-balloon")["actual"])
        return None

    def report(self) -> Report:
        """What its program has got so far; nothing of one that was killed."""
        with suppress(BallonetError):
            return parse_report(self._linux.shell.check("cat /report"))
        return []


def qemu_settings(
    name: str, memory_bytes: int, program: Path, *, deflates_on_oom: bool
) -> QemuLinuxSettings:
    """Of a guest with that program. Raises: GuestError."""
    device = f"virtio-balloon-pci,deflate-on-oom={'on' if deflates_on_oom else 'off'}"
    return QemuLinuxSettings(
        memory_bytes,
        find_qemu_kernel(),
        files=(Entry("memload", stat.S_IFREG | 0o755, program.read_bytes()),),
        arguments=(
            *("-name", name, "-device", device),
            *("-qmp", "unix:{}/qmp,server=on,wait=off"),
            *("-qmp", "unix:{}/watched,server=on,wait=off"),
        ),
    )
