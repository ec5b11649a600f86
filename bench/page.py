"""Ten browsers that look at the page of an agent over twenty guests: what that costs the agent.

Each takes every round, as a browser does, and draws nothing.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Final

from bench.device_process import cpu_seconds
from bench.host_process import HostProcess, idle_guests, raise_file_limit
from bench.report import Figure

__all__ = ["measure"]

GUESTS: Final = 20
PAGES: Final = 10
_SECONDS: Final = 20.0
_PATIENCE_S: Final = 20.0
_SETTLES_S: Final = 5.0


def measure() -> Iterator[Figure]:
    """Processor time of the agent without anybody, and with all of them."""
    raise_file_limit()
    with HostProcess(GUESTS) as host, idle_guests(host, GUESTS), _agent() as (pid, port):
        time.sleep(_SETTLES_S)
        name = f"x. `ballonet agent --web` over {GUESTS} guests"
        yield Figure(f"{name}: processor time", [_share(pid)], "%")
        with ExitStack() as stack:
            readers = [stack.enter_context(_reader(port)) for _ in range(PAGES)]
            share = _share(pid)
            rounds = sum(one.rounds for one in readers)
        yield Figure(f"{name}, {PAGES} pages open: processor time", [share], "%", 5)
        yield Figure(f"{name}, {PAGES} pages open: rounds that each has had", [rounds / PAGES], "")


def _share(pid: int) -> float:
    begun_s, begun_cpu_s = time.monotonic(), cpu_seconds(pid)
    time.sleep(_SECONDS)
    return 100 * (cpu_seconds(pid) - begun_cpu_s) / (time.monotonic() - begun_s)


@contextmanager
def _agent() -> Iterator[tuple[int, int]]:
    """Its process, and the port of its page."""
    with TemporaryDirectory() as name:
        path = Path(name) / "ballonet.toml"
        path.write_text(
            '[agent]\nmatch = ["guest*"]\n[metrics]\nlisten = "127.0.0.1:0"\n'
            '[web]\nlisten = "127.0.0.1:0"\n'
        )
        command = [sys.executable, "-m", "ballonet", "agent", "--config", str(path)]
        with subprocess.Popen(
            [*command, "--directory", str(Path(name) / "run")], stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                told = next(line for line in process.stderr or () if "the page is at" in line)
                yield process.pid, int(told.strip().rstrip("/").rpartition(":")[2])
            finally:
                process.terminate()


class _Reader:
    """Takes what comes, on a thread of its own, until it is closed."""

    def __init__(self, port: int) -> None:
        self.rounds = 0
        self._connection = HTTPConnection("127.0.0.1", port, timeout=_PATIENCE_S)
        self._connection.request("GET", "/events")
        self._answer = self._connection.getresponse()
        Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            for line in self._answer:
                self.rounds += line.startswith(b"data: ")
        except (OSError, ValueError, AttributeError):
            pass  # it was closed

    def close(self) -> None:
        self._connection.close()


@contextmanager
def _reader(port: int) -> Iterator[_Reader]:
    reader = _Reader(port)
    try:
        yield reader
    finally:
        reader.close()
