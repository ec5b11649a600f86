"""A real Linux in QEMU, emulated (TCG), for drivers that no hypervisor of this machine would serve.

Debian's kernel with a shell: its console goes to a file, commands travel on its second
serial line, and its memory is a file that this process maps too, unless another kind is wanted.
Not here: what makes it believe in another hypervisor (vmware_guest), the balloon's host.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from ballonet.errors import GuestError, MapError
from ballonet.guests.guest_shell import GuestShell
from ballonet.guests.initramfs import Entry, guest_files, pack_cpio
from ballonet.guests.kernel_package import find_kernel_package
from ballonet.guests.pc_memory import map_pc_memory
from ballonet.guests.processes import QEMU_MARK, PrivateDirectory
from ballonet.guests.qemu_kernel import QemuKernel
from ballonet.memory.mapping import GuestMemory

__all__ = ["FILE_BACKEND", "QemuLinux", "QemuLinuxSettings"]

#: Memory that this process can map, too; {} stands for the guest's directory.
FILE_BACKEND: Final = "memory-backend-file,share=on,mem-path={}/memory"

_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - where memory can be given back in pieces
_SHELL_LINE: Final = "ttyS1"
_LISTENS_S: Final = 60.0
#: On a machine that is busy an emulated guest takes twenty times as long as on one that is not.
_COMMAND_S: Final = 300.0
_POLL_S: Final = 0.02
#: Without what costs an emulated processor time and a guest alone in its machine needs not, and
#: without a look at the timer: on a busy host the kernel believes that it stands still, and panics.
_COMMAND_LINE: Final = "console=ttyS0 quiet panic=-1 nokaslr mitigations=off no_timer_check"


@dataclass(frozen=True, slots=True)
class QemuLinuxSettings:
    """What a guest is started with."""

    memory_bytes: int
    kernel: QemuKernel
    machine: str = "pc"  #: QEMU's machine and its options
    cpu: str = "max"
    command_line: tuple[str, ...] = ()  #: further kernel arguments
    first: str = ":"  #: done in the guest before it is ready, in its shell
    backend: str = FILE_BACKEND  #: QEMU's object with its memory
    arguments: tuple[str, ...] = ()  #: further ones of QEMU; {} stands for the guest's directory
    files: tuple[Entry, ...] = ()  #: further ones that the guest starts with


class QemuLinux:
    """One guest, from `start` to `stop`; a context manager that does both."""

    def __init__(self, settings: QemuLinuxSettings) -> None:
        self.settings: Final = settings
        self.release = ""
        self._directory: PrivateDirectory | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._shell: GuestShell | None = None
        self._memory: GuestMemory | None = None

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
    def directory(self) -> Path:
        """Its own, which goes with it. Raises: GuestError."""
        if self._directory is None:
            raise GuestError("the guest does not run")
        return self._directory.path

    @property
    def shell(self) -> GuestShell:
        """Commands into it. Raises: GuestError."""
        if self._shell is None:
            raise GuestError("the guest does not run")
        return self._shell

    @property
    def pid(self) -> int:
        """QEMU's process. Raises: GuestError."""
        if self._process is None:
            raise GuestError("the guest does not run")
        return self._process.pid

    @property
    def memory(self) -> GuestMemory:
        """All of its memory, mapped. Raises: GuestError, also if it is no file with a name."""
        if self._memory is None:
            raise GuestError("the guest does not run, or does not share its memory")
        return self._memory

    def start(self, timeout_s: float = 300.0) -> None:
        """Boot; returns when the guest answers. Raises: GuestError, with the console's end."""
        package = find_kernel_package()
        home = _SHARED_MEMORY if os.access(_SHARED_MEMORY, os.W_OK) else None
        self._directory = PrivateDirectory("ballonet-qemu-", home=home, mark=QEMU_MARK)
        try:
            modules = {path.name: path.read_bytes() for path in self.settings.kernel.modules}
            first = self.settings.first
            files = guest_files(
                package.busybox, package.applets, modules, line=_SHELL_LINE, first=first
            )
            archive = pack_cpio([*files, *self.settings.files])
            (self.directory / "initramfs").write_bytes(archive)
            self._launch()
            self._shell = GuestShell(self.connect("line"), self.kernel_log, timeout_s=_COMMAND_S)
            self.release = self._shell.wait_until_ready(timeout_s)
            # Not before: QEMU listens first, and then makes the memory's file.
            if self.settings.backend == FILE_BACKEND:
                self._memory = map_pc_memory(self.directory / "memory", self.settings.memory_bytes)
        except (OSError, MapError) as error:
            self.stop()
            raise GuestError(f"the guest cannot be started: {error}") from error
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End it, whatever state it is in; nothing of it remains. Safe to call again.

        Every window on its memory must have been released before.
        """
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        if self._shell is not None:
            self._shell.close()
            self._shell = None
        if self._memory is not None:
            self._memory.close()
            self._memory = None
        if self._directory is not None:
            self._directory.close()
            self._directory = None

    @property
    def is_running(self) -> bool:
        """QEMU's process lives."""
        return self._process is not None and self._process.poll() is None

    def connect(self, name: str) -> socket.socket:
        """Reach a socket that QEMU makes in the guest's directory. Raises: GuestError."""
        end_s = time.monotonic() + _LISTENS_S
        while True:
            sock = socket.socket(socket.AF_UNIX)
            try:
                sock.connect(str(self.directory / name))
            except OSError as error:
                sock.close()
                if self._process is None or self._process.poll() is not None:
                    raise GuestError(f"QEMU ended: {self._text('errors').strip()}") from error
                if time.monotonic() > end_s:
                    raise GuestError(f"QEMU does not listen on its {name}") from error
            else:
                return sock
            time.sleep(_POLL_S)

    def populate(self) -> None:
        """Have host memory behind all of the guest's, as if it had used it. Raises: GuestError."""
        try:
            with (self.directory / "memory").open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, self.settings.memory_bytes)
        except OSError as error:
            raise GuestError(f"no memory can be had for the guest: {error.strerror}") from error

    def kernel_log(self) -> str:
        """Everything on the console so far; works for a guest that hangs, too."""
        return self._text("console")

    def _text(self, name: str) -> str:
        with suppress(FileNotFoundError, GuestError):
            return (self.directory / name).read_text(errors="replace")
        return ""

    def _launch(self) -> None:
        settings, directory = self.settings, self.directory
        mebibytes = settings.memory_bytes >> 20
        backend = settings.backend.replace("{}", str(directory))
        with (directory / "errors").open("wb") as errors:
            self._process = subprocess.Popen(
                [
                    *("qemu-system-x86_64", "-name", QEMU_MARK.format(directory)),
                    *("-machine", f"{settings.machine},accel=tcg,memory-backend=memory"),
                    *("-object", f"{backend},id=memory,size={mebibytes}M"),
                    *("-cpu", settings.cpu, "-m", f"{mebibytes}"),
                    # A guest that starts anew would have memory that its host believes to be given.
                    *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
                    *("-serial", f"file:{directory / 'console'}"),
                    *("-serial", f"unix:{directory / 'line'},server=on,wait=off"),
                    *("-kernel", settings.kernel.image, "-initrd", directory / "initramfs"),
                    *("-append", " ".join((_COMMAND_LINE, *settings.command_line))),
                    *(argument.replace("{}", str(directory)) for argument in settings.arguments),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )
