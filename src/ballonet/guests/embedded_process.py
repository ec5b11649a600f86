"""An embedded guest as a process of its own, and the questions it answers."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Final, Self

from ballonet.errors import GuestError
from ballonet.guests.embedded import EmbeddedGuestSettings
from ballonet.guests.request_line import RequestLine

__all__ = ["EmbeddedGuest"]

_END_S: Final = 5.0
#: For hangs alone: on a busy machine a guest in Python may need minutes to compact its memory.
_ANSWER_S: Final = 300.0


class EmbeddedGuest:
    """One guest, from `start` to `stop`; a context manager that does both."""

    def __init__(self, settings: EmbeddedGuestSettings) -> None:
        self.settings: Final = settings
        self.release = "embedded"
        self._lock = Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._line: RequestLine | None = None

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
        """Its process. Raises: GuestError."""
        if self._process is None:
            raise GuestError("the guest does not run")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Its process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Boot; returns when its driver is ready. Raises: GuestError."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._line = RequestLine(ours)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ballonet", *self._arguments(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
            )
        try:
            self.ask("driver")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End it; nothing of it remains. Safe to call again."""
        if self._line is not None:
            self._line.close()
            self._line = None
        if self._process is not None:
            try:
                self._process.wait(_END_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            if self._process.stderr is not None:
                self._process.stderr.close()
            self._process = None

    def ask(self, what: str, *, timeout_s: float = _ANSWER_S, **arguments: object) -> Any:  # noqa: ANN401 - JSON
        """Ask for something and wait for the answer. Raises: GuestError."""
        with self._lock:
            if self._line is None:
                raise GuestError("the guest does not run")
            try:
                return self._line.ask(what, arguments, timeout_s)
            except TimeoutError as error:
                raise GuestError(f"the guest does not answer to {what}") from error
            except EOFError as error:
                raise self._lost("ended") from error
            except OSError as error:
                raise self._lost("is gone") from error

    def meminfo(self) -> dict[str, int]:
        """As /proc/meminfo names it, in bytes. Raises: GuestError."""
        return dict(self.ask("meminfo"))

    def vmstat(self) -> dict[str, int]:
        """As /proc/vmstat names it. Raises: GuestError."""
        return dict(self.ask("vmstat"))

    def use_memory(self, percent: int) -> None:
        """Fill a part of what is available and free it again. Raises: GuestError."""
        self.ask("use_memory", percent=percent)

    def host_memory_bytes(self) -> int:
        """Host memory behind the guest: the blocks of its memory file."""
        for link in Path(f"/proc/{self.pid}/fd").iterdir():
            if "memfd:ballonet-guest" in str(link.readlink()):
                return link.stat().st_blocks * 512
        raise GuestError("the guest has no memory file")

    def _arguments(self, control_fd: int) -> list[str]:
        settings = self.settings
        arguments = [
            *("guest", "embedded", "--socket", str(settings.socket_path)),
            *("--balloon", settings.balloon),
            *("--memory", f"{settings.memory_bytes}B", "--page-size", str(settings.page_bytes)),
            *("--seed", str(settings.kernel.seed), "--swap", f"{settings.kernel.swap_bytes}B"),
            *("--speed", str(settings.speed), "--control-fd", str(control_fd)),
        ]
        if settings.workload is not None:
            arguments += ["--workload", settings.workload]
        if settings.kernel.poison is not None:
            arguments += ["--poison", str(settings.kernel.poison)]
        return arguments

    def _lost(self, what: str) -> GuestError:
        complaint = b""
        if self._process is not None and self._process.stderr is not None:
            try:
                self._process.wait(_END_S)
                complaint = self._process.stderr.read()
            except subprocess.TimeoutExpired:
                pass
        lines = complaint.decode(errors="replace").strip().splitlines()
        return GuestError(f"the embedded guest {what}{': ' + lines[-1] if lines else ''}")
