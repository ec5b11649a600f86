"""The back-end under test: on a thread of this process, or in a process of its own."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from tests.support.guest_memory import FILE_NAME as GUEST_FILE
from tests.support.programs import is_listening
from tests.support.wait import PATIENCE_S, wait_until

from ballonet.balloon.facts import Fact
from ballonet.control.device_control import DeviceControl
from ballonet.control.status import Status
from ballonet.device.balloon import BalloonSettings
from ballonet.vhost_user.listener import listening_socket
from ballonet.vhost_user.server import make_server, serving

SECONDS: Final = PATIENCE_S


@dataclass(frozen=True, slots=True)
class Device:
    """A back-end on a thread, and what it reported."""

    path: Path
    control: DeviceControl
    events: list[Fact]

    def status(self) -> Status:
        """Look at the device."""
        return self.control.status()

    def settle(self) -> None:
        """Whatever was readable for the device before is served when this returns."""
        for _ in range(2):  # the first may be asked in the middle of the turn that serves it
            self.status()

    def rest(self) -> None:
        """Nothing that was given to the device waits any more."""
        self.control.expedite()
        message = "memory of the balloon still waits to be dropped"
        wait_until(lambda: not self.status().waiting_bytes, SECONDS, message)

    def wait_until_free(self) -> None:
        """The last front-end is gone, as the device sees it."""
        message = "the device still has a front-end"
        wait_until(lambda: not self.status().connected, SECONDS, message)


@contextmanager
def running_device(
    path: Path, settings: BalloonSettings | None = None, *, state_path: Path | None = None
) -> Iterator[Device]:
    """Serve on a thread of this process."""
    events: list[Fact] = []
    with listening_socket(path) as sock:
        server = make_server(
            settings or BalloonSettings(), sock, listening=True, state_path=state_path
        )
        control = DeviceControl(server)
        control.subscribe(events.append)
        with serving(server):
            yield Device(path, control, events)


@contextmanager
def soft_file_limit(limit: int) -> Iterator[None]:
    """Programs started in the block may have so many descriptors open, unless they ask for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class DeviceProcess:
    """A back-end as users start it, for front-ends that may kill it; a context manager."""

    def __init__(self, path: Path, log: Path, *options: str | Path) -> None:
        self.path: Final = path
        self._log_path = log
        program = Path(sys.executable).with_name("ballonet")
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(
                [program, "device", "--no-defer-discards", "--socket-path", path, *options],
                stderr=stderr,
            )
        wait_until(lambda: is_listening(path), SECONDS, f"nobody listens at {path}: {self.log()}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()  # one that was not stopped, or does not stop

    def kill(self) -> None:
        """End it as nobody can prevent."""
        self._process.kill()
        self._process.wait()

    def rest(self) -> None:
        """Nothing waits: it drops what it is given before it answers."""

    def is_alive(self) -> bool:
        """The process has not ended."""
        return self._process.poll() is None

    def open_fds(self) -> int:
        """How many descriptors it has open."""
        return len(list(Path(f"/proc/{self._process.pid}/fd").iterdir()))

    def map_lines(self) -> list[str]:
        """Its memory mappings."""
        maps = Path(f"/proc/{self._process.pid}/maps").read_text(encoding="utf-8")
        return maps.splitlines()

    def guest_mappings(self) -> list[str]:
        """Its mappings of guest memory."""
        return [line for line in self.map_lines() if GUEST_FILE in line]

    def log(self) -> str:
        """What it wrote to stderr, after where it listens."""
        lines = self._log_path.read_text(encoding="utf-8").splitlines(keepends=True)
        return "".join(line for line in lines if not line.startswith("ballonet: listening at "))

    def wait(self) -> int:
        """Its exit code, when it has ended by itself; a signal's number negated."""
        return self._process.wait(SECONDS)

    def stop(self) -> int:
        """End it as an operator would; returns its exit code."""
        self._process.terminate()
        return self._process.wait(SECONDS)
