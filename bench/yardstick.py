"""A real guest behind a device in C that does as little as one can: what everything is held to.

Built with the system's compiler from bench/reference; it checks nothing, and is for measurements
only.
"""

from __future__ import annotations

import os
import subprocess
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from ballonet.errors import GuestError
from ballonet.guests.linux import LinuxGuest, LinuxGuestSettings
from ballonet.guests.processes import PrivateDirectory
from bench.listening import wait_for_listener

__all__ = ["Use", "Yardstick"]

_SOURCE: Final = Path(__file__).parent / "reference" / "balloon_device.c"
_BUILD: Final = Path("build/reference")


@dataclass(frozen=True, slots=True)
class Use:
    """What the device has done and cost since it was started."""

    messages: int
    pages: int
    cpu_s: float


class Yardstick:
    """A guest and its device; `mode` is `answer` or `defer`. A context manager."""

    def __init__(self, mode: str, memory_bytes: int) -> None:
        self._mode, self._memory_bytes = mode, memory_bytes
        self._stack = ExitStack()
        self.guest: LinuxGuest

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            path = stack.enter_context(PrivateDirectory("ballonet-bench-")) / "device"
            command = [str(_compiled()), self._mode, str(path)]
            self._device = stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            stack.callback(self._device.terminate)
            wait_for_listener(path)
            settings = LinuxGuestSettings(self._memory_bytes, path)
            self.guest = stack.enter_context(LinuxGuest(settings))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._stack.close()

    def resize(self, pages: int) -> float:
        """Seconds until the guest says that it is there."""
        begun_s = time.monotonic()
        if self._say(str(pages)) != "reached":
            raise GuestError("the device in C says something else")
        return time.monotonic() - begun_s

    def use(self) -> Use:
        """What it cost so far."""
        messages, pages, cpu_us = map(int, self._say("").split())
        return Use(messages, pages, cpu_us / 1e6)

    def _say(self, line: str) -> str:
        if self._device.stdin is None or self._device.stdout is None:
            raise GuestError("the device in C does not run")
        self._device.stdin.write(f"{line}\n")
        self._device.stdin.flush()
        return self._device.stdout.readline().strip()


def _compiled() -> Path:
    """The program, built anew if its source is newer. Raises: GuestError."""
    program = _BUILD / _SOURCE.stem
    if not program.exists() or program.stat().st_mtime < _SOURCE.stat().st_mtime:
        _BUILD.mkdir(parents=True, exist_ok=True)
        command = [os.environ.get("CC", "cc"), "-O2", "-Wall", "-o", str(program), str(_SOURCE)]
        try:
            subprocess.run(command, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise GuestError(f"the device in C cannot be built: {error}") from error
    return program
