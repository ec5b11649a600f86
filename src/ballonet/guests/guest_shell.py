"""Commands into a guest: what the host says on the serial line that the guest's init serves.

A command travels as one line and is answered in the order of its number; what init does is in
initramfs.py.  Not here: the guest's processes, its console's file.
"""

from __future__ import annotations

import base64
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Final

from ballonet.errors import GuestError

__all__ = ["CommandResult", "GuestShell"]

_ANSWER_GRACE_S: Final = 5.0
#: Encoded, it must fit what a terminal of the guest holds: measured, 2,900 bytes do and 2,990 not.
_COMMAND_BYTES_MAX: Final = 2048
_LOG_LINES: Final = 12
#: A line that is emulated on a busy machine was seen to stand still until something arrived on it:
#: whoever waits for longer sends an empty line, which init reads and ignores.
_NUDGE_S: Final = 5.0
#: An emulated guest fills 100 MiB in a second, or in a minute on a very busy machine.
_FILL_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class CommandResult:
    """What a command in the guest did; output and error output in one."""

    exit_code: int
    output: str


class GuestShell:
    """Owns our end of the line; `kernel_log` is what an error quotes the end of.

    Commands may take `timeout_s` unless they are given another time.
    """

    def __init__(
        self, line: socket.socket, kernel_log: Callable[[], str], *, timeout_s: float = 60.0
    ) -> None:
        self._line, self._kernel_log, self._timeout_s = line, kernel_log, timeout_s
        self._lock = Lock()
        self._commands = 0
        self._received = b""
        self._is_ready = False  # init reads the line

    def wait_until_ready(self, timeout_s: float) -> str:
        """The guest's kernel release, once its init serves the line. Raises: GuestError."""
        release = self._read_line(time.monotonic() + timeout_s).removeprefix("ready ")
        self._is_ready = True
        return release

    def run(self, command: str, timeout_s: float | None = None) -> CommandResult:
        """Run a shell command in the guest and wait for it.

        Raises: GuestError, if the guest is gone, the command has more than 2,048 bytes, or it takes
        longer than `timeout_s`; the guest has killed it then.
        """
        if len(command.encode()) > _COMMAND_BYTES_MAX:
            raise GuestError(f"a command may have {_COMMAND_BYTES_MAX} bytes: {command[:40]} ...")
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
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
                if not (answered.isdecimal() and int(answered) < self._commands):
                    raise self._lost(f"answers what it was not asked, {answered}")
        if int(code) == 128 + signal.SIGKILL:
            raise GuestError(f"killed in the guest, after {timeout_s} s or for memory: {command}")
        return CommandResult(int(code), output.decode(errors="replace"))

    def check(self, command: str, timeout_s: float | None = None) -> str:
        """Run a command that must succeed; returns its output. Raises: GuestError."""
        result = self.run(command, timeout_s)
        if result.exit_code:
            raise GuestError(f"exit code {result.exit_code} of {command}: {result.output.strip()}")
        return result.output

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
        command = f"dd if=/dev/zero of=/tmp/fill bs=1M count={mebibytes} && rm /tmp/fill"
        self.check(command, _FILL_S)

    def close(self) -> None:
        """Hang up."""
        self._line.close()

    def _send(self, data: bytes) -> None:
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
        while (left := deadline - time.monotonic()) > 0:
            try:
                self._line.settimeout(min(left, _NUDGE_S))
                data = self._line.recv(1 << 16)
            except TimeoutError:
                if self._is_ready:
                    self._send(b"\n")
                continue
            except OSError as error:
                raise self._lost("is gone") from error
            if not data:
                raise self._lost("is gone")
            self._received += data
            return
        raise self._lost("does not answer")

    def _lost(self, what: str) -> GuestError:
        tail = "\n".join(self._kernel_log().splitlines()[-_LOG_LINES:])
        return GuestError(f"the guest {what}; the end of its console:\n{tail}")
