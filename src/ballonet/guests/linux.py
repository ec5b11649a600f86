"""A real Linux kernel as a guest: User-Mode Linux, an ordinary process on this machine.

The kernel's console goes to a file; commands travel on a serial line of their own.  Stopping
kills all its processes, because the kernel neither dies of SIGTERM nor takes its children along,
and spins for ever when its balloon's back-end is gone.
Not here: the device it is attached to (vhost_user).
"""

from __future__ import annotations

import os
import socket
import subprocess
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from ballonet.errors import GuestError
from ballonet.guests.guest_shell import CommandResult, GuestShell
from ballonet.guests.initramfs import guest_files, pack_cpio
from ballonet.guests.kernel_package import KernelPackage, find_kernel_package
from ballonet.guests.kernel_process import LinuxGuestSettings, kernel_arguments, start_kernel
from ballonet.guests.processes import GUEST_MARK, PrivateDirectory, end_guest

__all__ = ["LinuxGuest", "LinuxGuestSettings", "make_guest_directory"]

_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - where the guest's memory is a real tmpfs


def make_guest_directory(package: KernelPackage) -> PrivateDirectory:
    """A directory with the guest's first file system, where its memory file will be too.

    Raises: GuestError.
    """
    home = _SHARED_MEMORY if os.access(_SHARED_MEMORY, os.W_OK) else None
    directory = PrivateDirectory("ballonet-guest-", home=home, mark=GUEST_MARK)
    files = guest_files(
        package.busybox, package.applets, {"virtio_balloon.ko": package.balloon_module}
    )
    try:
        (directory.path / "initramfs").write_bytes(pack_cpio(files))
    except BaseException as error:
        directory.close()
        if isinstance(error, OSError):
            raise GuestError(f"{directory.path} cannot be written: {error.strerror}") from error
        raise
    return directory


class LinuxGuest:
    """One guest, from `start` to `stop`; a context manager that does both."""

    def __init__(self, settings: LinuxGuestSettings) -> None:
        self.settings: Final = settings
        self.release = ""
        self._directory: PrivateDirectory | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._shell: GuestShell | None = None

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
    def pid(self) -> int:
        """The kernel's process."""
        return self._running().pid

    def start(self, timeout_s: float = 30.0) -> None:
        """Boot; returns when the guest answers. Raises: GuestError, with the console's end."""
        package = find_kernel_package()
        try:
            self._directory = make_guest_directory(package)
            self._launch(package.kernel, self._directory.path)
            self.release = self._running_shell().wait_until_ready(timeout_s)
        except BaseException:
            self.stop()
            raise

    def run(self, command: str, timeout_s: float = 60.0) -> CommandResult:
        """Run a shell command in the guest and wait for it.

        Raises: GuestError, if the guest is gone, the command has more than 2,048 bytes, or it takes
        longer than `timeout_s`; the guest has killed it then.
        """
        return self._running_shell().run(command, timeout_s)

    def check(self, command: str, timeout_s: float = 60.0) -> str:
        """Run a command that must succeed; returns its output. Raises: GuestError."""
        return self._running_shell().check(command, timeout_s)

    def kernel_log(self) -> str:
        """Everything on the console so far; works for a guest that hangs, too."""
        if self._directory is None:
            return ""
        return (self._directory.path / "console").read_text(errors="replace")

    def meminfo(self) -> dict[str, int]:
        """/proc/meminfo, in bytes. Raises: GuestError."""
        return self._running_shell().meminfo()

    def vmstat(self) -> dict[str, int]:
        """/proc/vmstat. Raises: GuestError."""
        return self._running_shell().vmstat()

    def use_memory(self, percent: int) -> None:
        """Fill a part of what is available with a file and remove it. Raises: GuestError."""
        self._running_shell().use_memory(percent)

    def host_memory_bytes(self) -> int:
        """Host memory behind the guest: the blocks of its memory file. Raises: GuestError."""
        return self.memory_file().stat().st_blocks * 512

    def memory_file(self) -> Path:
        """The guest's memory, which lies in it at its physical address; the file has no name.

        Raises: GuestError.
        """
        home = None if self._directory is None else self._directory.path
        for link in Path(f"/proc/{self.pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                target = str(link.readlink())
                if target.startswith(f"{home}/") and target.endswith(" (deleted)"):
                    return link
        raise GuestError("the guest has no memory file")

    @property
    def is_running(self) -> bool:
        """The kernel's process lives."""
        return self._process is not None and self._process.poll() is None

    def wait_for_exit(self, timeout_s: float) -> int:
        """Exit code of a guest that powers itself off. Raises: GuestError, if it does not."""
        try:
            return self._running().wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise GuestError(f"the guest still runs after {timeout_s} s") from error

    def stop(self) -> None:
        """End the guest, whatever state it is in; nothing of it remains. Safe to call again."""
        if self._process is not None and self._directory is not None:
            end_guest(self._process, self._directory.path)
            self._process = None
        if self._shell is not None:
            self._shell.close()
            self._shell = None
        if self._directory is not None:
            self._directory.close()
            self._directory = None

    def _launch(self, kernel: Path, directory: Path) -> None:
        ours, theirs = socket.socketpair()
        with theirs, (directory / "console").open("wb") as console:
            number = theirs.fileno()
            self._shell = GuestShell(ours, self.kernel_log)
            self._process = start_kernel(
                [
                    kernel,
                    *kernel_arguments(self.settings, directory),
                    "con0=null,fd:1",
                    f"ssl0=fd:{number},fd:{number}",
                ],
                directory,
                stdin=subprocess.DEVNULL,
                output=console,
                pass_fds=[number],
            )

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise GuestError("the guest does not run")
        return self._process

    def _running_shell(self) -> GuestShell:
        if self._shell is None:
            raise GuestError("the guest does not run")
        return self._shell
