"""A real Linux kernel as a guest: User-Mode Linux, an ordinary process on this machine.

The kernel's console goes to a file; commands travel on a serial line of their own.  Stopping
kills all its processes, because the kernel neither dies of SIGTERM nor takes its children along,
and spins for ever when its balloon's back-end is gone.
Not here: the device it is attached to (vhost_user).
"""

from __future__ import annotations

import base64
import os
import signal
import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Final, Self

from ballonet.errors import GuestError
from ballonet.guests.initramfs import guest_files, pack_cpio
from ballonet.guests.kernel_package import KernelPackage, find_kernel_package
from ballonet.guests.kernel_process import LinuxGuestSettings, kernel_arguments, start_kernel
from ballonet.guests.processes import GUEST_MARK, PrivateDirectory, end_guest

__all__ = ["CommandResult", "LinuxGuest", "LinuxGuestSettings", "make_guest_directory"]

_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - where the guest's memory is a real tmpfs
_ANSWER_GRACE_S: Final = 5.0
#: Encoded, it must fit what a terminal of the guest holds: measured, 2,900 bytes do and 2,990 not.
_COMMAND_BYTES_MAX: Final = 2048


@dataclass(frozen=True, slots=True)
class CommandResult:
    """What a command in the guest did; output and error output in one."""

    exit_code: int
    output: str


def make_guest_directory(package: KernelPackage) -> PrivateDirectory:
    """A directory with the guest's first file system, where its memory file will be too.

    Raises: GuestError.
    """
    home = _SHARED_MEMORY if os.access(_SHARED_MEMORY, os.W_OK) else None
    directory = PrivateDirectory("ballonet-guest-", home=home, mark=GUEST_MARK)
    files = guest_files(package.busybox, package.applets, package.balloon_module)
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
        self._lock = Lock()
        self._commands = 0
        self._received = b""
        self._directory: PrivateDirectory | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None

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
            self.release = self._read_line(time.monotonic() + timeout_s).removeprefix("ready ")
        except BaseException:
            self.stop()
            raise

    def run(self, command: str, timeout_s: float = 60.0) -> CommandResult:
        """Run a shell command in the guest and wait for it.

        Raises: GuestError, if the guest is gone, the command has more than 2,048 bytes, or it takes
        longer than `timeout_s`; the guest has killed it then.
        """
        if len(command.encode()) > _COMMAND_BYTES_MAX:
            raise GuestError(f"a command may have {_COMMAND_BYTES_MAX} bytes: {command[:40]} ...")
        with self._lock:
            self._commands += 1
            number = str(self._commands)
            encoded = base64.b64encode(command.encode()).decode()
            deadline = time.monotonic() + timeout_s + _ANSWER_GRACE_S
            self._send(f"{number} {max(1, round(timeout_s))} {encoded}\n".encode())
            while True:
                answered, code, size = self._read_line(deadline).split()
                output = self._read_bytes(int(size), deadline)
                if answered == number:
                    break
        if int(code) == 128 + signal.SIGKILL:
            raise GuestError(f"killed in the guest, after {timeout_s} s or for memory: {command}")
        return CommandResult(int(code), output.decode(errors="replace"))

    def check(self, command: str, timeout_s: float = 60.0) -> str:
        """Run a command that must succeed; returns its output. Raises: GuestError."""
        result = self.run(command, timeout_s)
        if result.exit_code:
            raise GuestError(f"exit code {result.exit_code} of {command}: {result.output.strip()}")
        return result.output

    def kernel_log(self) -> str:
        """Everything on the console so far; works for a guest that hangs, too."""
        if self._directory is None:
            return ""
        return (self._directory.path / "console").read_text(errors="replace")

    def meminfo(self) -> dict[str, int]:
        """/proc/meminfo, in bytes. Raises: GuestError."""
        rows = (line.split() for line in self.check("cat /proc/meminfo").splitlines())
        return {row[0].rstrip(":"): int(row[1]) << (10 if row[-1] == "kB" else 0) for row in rows}

    def vmstat(self) -> dict[str, int]:
        """/proc/vmstat. Raises: GuestError."""
        rows = (line.split() for line in self.check("cat /proc/vmstat").splitlines())
        return {name: int(value) for name, value in rows}

    def use_memory(self, percent: int) -> None:
        """Fill a part of what is available with a file and remove it. Raises: GuestError."""
        mebibytes = self.meminfo()["MemAvailable"] * percent // 100 >> 20
        self.check(f"dd if=/dev/zero of=/tmp/fill bs=1M count={mebibytes} && rm /tmp/fill")

    def host_memory_bytes(self) -> int:
        """Host memory behind the guest: the blocks of its memory file, which has no name."""
        home = None if self._directory is None else self._directory.path
        for link in Path(f"/proc/{self.pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                target = str(link.readlink())
                if target.startswith(f"{home}/") and target.endswith(" (deleted)"):
                    return link.stat().st_blocks * 512
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
        if self._line is not None:
            self._line.close()
            self._line = None
        if self._directory is not None:
            self._directory.close()
            self._directory = None

    def _launch(self, kernel: Path, directory: Path) -> None:
        ours, theirs = socket.socketpair()
        with theirs, (directory / "console").open("wb") as console:
            number = theirs.fileno()
            self._line = ours
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

    def _send(self, data: bytes) -> None:
        if self._line is None:
            raise GuestError("the guest does not run")
        try:
            self._line.sendall(data)
        except OSError as error:
            raise self._lost("is gone") from error

    def _read_line(self, deadline: float) -> str:
        while b"\n" not in self._received:
            self._receive(deadline)
        line, _, self._received = self._received.partition(b"\n")
        return line.decode(errors="replace")

    def _read_bytes(self, count: int, deadline: float) -> bytes:
        while len(self._received) < count:
            self._receive(deadline)
        data, self._received = self._received[:count], self._received[count:]
        return data

    def _receive(self, deadline: float) -> None:
        if self._line is None:
            raise GuestError("the guest does not run")
        self._line.settimeout(max(0.001, deadline - time.monotonic()))
        try:
            data = self._line.recv(1 << 16)
        except TimeoutError as error:
            raise self._lost("does not answer") from error
        except OSError as error:
            raise self._lost("is gone") from error
        if not data:
            raise self._lost("is gone")
        self._received += data

    def _lost(self, what: str) -> GuestError:
        tail = "\n".join(self.kernel_log().splitlines()[-12:])
        return GuestError(f"the guest {what}; the end of its console:\n{tail}")
