"""A real QEMU as a guest: emulated (TCG), with Debian's kernel and QEMU's own balloon.

For comparing with other people's device and monitor; our own device has nothing to do with it.
"""

from __future__ import annotations

import socket
import stat
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from ballonet.errors import GuestError
from ballonet.guests.initramfs import Entry, pack_cpio
from ballonet.guests.kernel_package import find_kernel_package
from ballonet.guests.processes import QEMU_MARK, PrivateDirectory
from ballonet.guests.qemu_kernel import find_qemu_kernel

__all__ = ["HINTING", "QemuGuest", "used_and_freed"]

_READY: Final = "balloon guest ready"
_INIT: Final = f"""#!/bin/busybox sh
/bin/busybox mount -t devtmpfs devtmpfs /dev
for module in @MODULES@; do
    /bin/busybox insmod /$module
done
@FIRST@
echo {_READY} $(/bin/busybox uname -r)
while :; do
    /bin/busybox sleep 1000
done
"""
_BOOT_S: Final = 60.0
_POLL_S: Final = 0.05


#: A balloon whose guest names its free pages when it is migrated.
HINTING: Final = ("free-page-hint=on", "iothread=iothread0")


def used_and_freed(size_bytes: int) -> str:
    """What a guest is to do `first` so that much of its free memory is not zeros."""
    return f"""/bin/busybox mkdir /used
/bin/busybox mount -t tmpfs -o size=100% tmpfs /used
until [ $(/bin/busybox du -s /used | /bin/busybox cut -f1) -ge {size_bytes >> 10} ]; do
    file=$((file + 1))
    for part in 1 2 3 4 5 6 7 8; do
        /bin/busybox cat /bin/busybox >> /used/$file
    done
done
/bin/busybox umount /used"""


class QemuGuest:
    """One QEMU, from `start` to `stop`; a context manager that does both."""

    balloon_path: Final = "/machine/peripheral/balloon0"

    def __init__(
        self,
        memory_bytes: int,
        *balloon_options: str,
        first: str = "",
        incoming: Path | None = None,
        arguments: tuple[str, ...] = (),
    ) -> None:
        """`first` is done in the guest before it is ready, in its shell.

        With `incoming`, a socket, nothing boots: it waits there for a guest that is migrated.
        """
        self.memory_bytes = memory_bytes
        self._first, self._incoming, self._arguments = first, incoming, arguments
        self._options = ",".join(("virtio-balloon-pci", "id=balloon0", *balloon_options))
        self._directory: PrivateDirectory | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def qmp_path(self) -> Path:
        """Its monitor. Raises: GuestError."""
        if self._directory is None:
            raise GuestError("the guest does not run")
        return self._directory.path / "qmp"

    def start(self) -> None:
        """Boot; returns when the balloon's driver is there, or the socket. Raises: GuestError."""
        kernel, busybox = find_qemu_kernel(), find_kernel_package().busybox
        self._directory = PrivateDirectory("ballonet-qemu-", mark=QEMU_MARK)
        try:
            files = _guest_files(busybox, kernel.modules, self._first)
            (self._directory.path / "initramfs").write_bytes(pack_cpio(files))
            self._launch(kernel.image, self._directory.path)
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End it, whatever state it is in; nothing of it remains. Safe to call again."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        if self._directory is not None:
            self._directory.close()
            self._directory = None

    def console(self) -> str:
        """Everything the kernel has said."""
        if self._directory is None:
            return ""
        with suppress(FileNotFoundError):
            return (self._directory.path / "console").read_text(errors="replace")
        return ""

    def _launch(self, image: Path, directory: Path) -> None:
        incoming = () if self._incoming is None else ("-incoming", f"unix:{self._incoming}")
        with (directory / "errors").open("wb") as errors:
            self._process = subprocess.Popen(
                [
                    *("qemu-system-x86_64", "-name", QEMU_MARK.format(directory)),
                    *("-machine", "q35,accel=tcg", "-cpu", "max"),
                    *("-m", f"{self.memory_bytes >> 20}", "-nodefaults", "-no-user-config"),
                    *("-display", "none", "-serial", f"file:{directory / 'console'}"),
                    *("-kernel", image, "-initrd", directory / "initramfs"),
                    *("-append", "console=ttyS0 quiet panic=-1 no_timer_check"),
                    *("-object", "iothread,id=iothread0", "-device", self._options),
                    *("-qmp", f"unix:{directory / 'qmp'},server=on,wait=off"),
                    *incoming,
                    *self._arguments,
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )

    def _wait_until_ready(self) -> None:
        end_s = time.monotonic() + _BOOT_S
        while not self._is_ready():
            if self._process is None or self._process.poll() is not None:
                errors = (self.qmp_path.parent / "errors").read_text(errors="replace")
                raise GuestError(f"QEMU ended: {errors.strip()}")
            if time.monotonic() > end_s:
                raise GuestError(f"QEMU's guest does not boot:\n{self.console()[-1000:]}")
            time.sleep(_POLL_S)

    def _is_ready(self) -> bool:
        if self._incoming is None:
            return _READY in self.console()
        # It greets from a thread of its own, and answers from its main loop: when all listens.
        with suppress(OSError), socket.socket(socket.AF_UNIX) as monitor:
            monitor.settimeout(_BOOT_S)
            monitor.connect(str(self.qmp_path))
            monitor.sendall(b'{"execute": "qmp_capabilities"}\n')
            with monitor.makefile("rb") as lines:
                return b"return" in lines.readline() + lines.readline()
        return False


def _guest_files(busybox: bytes, modules: tuple[Path, ...], first: str) -> list[Entry]:
    program = stat.S_IFREG | 0o755
    names = " ".join(module.name for module in modules)
    init = _INIT.replace("@MODULES@", names).replace("@FIRST@", first)
    return [
        *(Entry(name, stat.S_IFDIR | 0o755) for name in ("bin", "dev")),
        Entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)),
        Entry("bin/busybox", program, busybox),
        Entry("init", program, init.encode()),
        *(Entry(module.name, stat.S_IFREG | 0o644, module.read_bytes()) for module in modules),
    ]
