"""An embedded guest and its device, each a process as a user starts it, with their monitors.

What the demonstration of a migration and its measurements move about.  Both processes name the
directory in their command lines: whoever made it as a `PrivateDirectory` ends them with it.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from ballonet.errors import GuestError
from ballonet.guests.request_line import RequestLine
from ballonet.runtime.monitor_socket import MonitorSocket

__all__ = ["MachineProcess", "MachineSettings"]

_START_S: Final = 60.0
_LOOK_S: Final = 0.02
_ANSWER_S: Final = 300.0


@dataclass(frozen=True, slots=True)
class MachineSettings:
    """How a machine is started."""

    memory_bytes: int
    workload: str | None = None
    waits_for_guest: bool = False  #: at `uri`
    device_options: tuple[str, ...] = ()


class MachineProcess:
    """One machine in a directory of somebody's; a context manager."""

    def __init__(self, directory: Path, name: str, settings: MachineSettings) -> None:
        self._directory, self._name, self._settings = directory, name, settings
        self.uri: Final = f"unix:{self._path('incoming')}"
        self._stack = ExitStack()
        self._line: RequestLine
        self._guest: subprocess.Popen[bytes]
        self._device: subprocess.Popen[bytes]
        self._monitor: MonitorSocket

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._device = self._start(stack, self._device_arguments())
            self._wait_for("device", self._device)
            ours, theirs = socket.socketpair()
            self._line = stack.enter_context(closing(RequestLine(ours)))
            with theirs:
                fd = theirs.fileno()
                self._guest = self._start(stack, self._guest_arguments(fd), fd)
            self._wait_for("guest-qmp", self._guest)
            if self._settings.waits_for_guest:
                self._wait_for("incoming", self._guest)
            else:
                self.ask("driver")
            self._monitor = MonitorSocket(self.guest_qmp)
            stack.callback(self._monitor.close)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def pid(self) -> int:
        """Of the guest."""
        return self._guest.pid

    @property
    def device_qmp(self) -> Path:
        """The monitor of its device."""
        return self._path("device-qmp")

    @property
    def guest_qmp(self) -> Path:
        """The monitor of the guest."""
        return self._path("guest-qmp")

    def ask(self, what: str, **arguments: object) -> Any:  # noqa: ANN401 - JSON
        """Ask the guest itself; answered when it has arrived. Raises: GuestError."""
        try:
            return self._line.ask(what, arguments, _ANSWER_S)
        except EOFError as error:
            raise GuestError(f"the guest of {self._name} has ended") from error
        except OSError as error:
            raise GuestError(f"the guest of {self._name} does not answer: {error}") from error

    def execute(self, command: str, **arguments: object) -> Any:  # noqa: ANN401 - JSON
        """A command of the guest's monitor. Raises: MonitorError."""
        return self._monitor.execute(command, **arguments)

    def set_balloon(self, size: int) -> None:
        """Let the guest fill a balloon of so many bytes, and wait for it.

        Raises: GuestError, MonitorError.
        """
        device = MonitorSocket(self.device_qmp)
        try:
            wanted = self._settings.memory_bytes - size
            device.execute("balloon", value=wanted)
            end_s = time.monotonic() + _ANSWER_S
            while device.execute("query-balloon") != {"actual": wanted}:
                if time.monotonic() > end_s:
                    raise GuestError(f"the guest of {self._name} does not fill its balloon")
                time.sleep(_LOOK_S)
        finally:
            device.close()

    def _path(self, what: str) -> Path:
        return self._directory / f"{self._name}-{what}"

    def _device_arguments(self) -> list[str]:
        return [
            *("device", "--socket-path", str(self._path("device"))),
            *("--qmp", f"unix:{self.device_qmp},server=on,wait=off"),
            *self._settings.device_options,
        ]

    def _guest_arguments(self, control_fd: int) -> list[str]:
        settings = self._settings
        arguments = [
            *("guest", "embedded", "--socket", str(self._path("device"))),
            *("--memory", f"{settings.memory_bytes}B", "--control-fd", str(control_fd)),
            *("--qmp", f"unix:{self.guest_qmp},server=on,wait=off"),
            *("--device-qmp", str(self.device_qmp)),
        ]
        if settings.workload is not None:
            arguments += ["--workload", settings.workload]
        if settings.waits_for_guest:
            arguments += ["--incoming", self.uri]
        return arguments

    def _start(self, stack: ExitStack, arguments: list[str], *fds: int) -> subprocess.Popen[bytes]:
        log = stack.enter_context(self._path(f"{arguments[0]}-log").open("wb"))
        process = subprocess.Popen(
            [sys.executable, "-m", "ballonet", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            pass_fds=fds,
        )
        stack.callback(_end, process)
        return process

    def _wait_for(self, what: str, process: subprocess.Popen[bytes]) -> None:
        """Until a socket is there. Raises: GuestError."""
        end_s = time.monotonic() + _START_S
        while not self._path(what).is_socket():
            if process.poll() is not None or time.monotonic() > end_s:
                log = "guest" if process is not self._device else "device"
                text = self._path(f"{log}-log").read_text(errors="replace").strip()
                reason = text.splitlines()[-1] if text else "it says nothing"
                raise GuestError(f"a machine does not start: {reason}")
            time.sleep(_LOOK_S)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
