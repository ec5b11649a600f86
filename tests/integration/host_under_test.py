"""`ballonet host` as a process, and the verbs and clients that talk to it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from tests.support.qmp_client import QmpClient
from tests.support.wait import PATIENCE_S, wait_until

BALLONET = str(Path(sys.executable).with_name("ballonet"))


class HostProcess:
    """The program, and the verbs that talk to it."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.directory = directory
        command = [BALLONET, "host", "--directory", str(directory), *options]
        self._log = TemporaryFile()  # noqa: SIM115 - closed in `end`
        self.process = subprocess.Popen(command, stderr=self._log)
        wait_until(lambda: b"listening" in self.log(), 10, "the host listens")

    def log(self) -> bytes:
        """What it and its workers have written to stderr so far."""
        return os.pread(self._log.fileno(), 1 << 20, 0)

    @contextmanager
    def monitor(self) -> Iterator[QmpClient]:
        """A client of its own monitor."""
        with QmpClient(self.directory / "host.qmp") as client:
            yield client.negotiate()

    def verb(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`ballonet host WORDS`."""
        command = [BALLONET, "host", "--directory", str(self.directory), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def add(self, name: str) -> Path:
        """Add a guest; returns the socket of its device."""
        done = self.verb("add", name, "--json")
        assert done.returncode == 0, done.stderr
        return Path(json.loads(done.stdout)["socket"])

    def rows(self) -> dict[str, dict[str, Any]]:
        """What its monitor says of the guests, by name."""
        with self.monitor() as client:
            return {row["name"]: row for row in client.ask("x-ballonet-query-guests")["return"]}

    def worker(self, name: str) -> int:
        """The process of a guest."""
        pid = self.rows()[name]["pid"]
        assert isinstance(pid, int)
        return pid

    def children(self) -> list[int]:
        """All its workers."""
        pid = self.process.pid
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def balloon(self, name: str, size: str) -> None:
        """`ballonet set`."""
        command = [BALLONET, "set", str(self.directory / f"{name}.qmp"), size]
        subprocess.run(command, check=True, capture_output=True)

    def saved_pages(self, name: str) -> int:
        """Size of a guest's balloon in its state file."""
        return int(json.loads((self.directory / f"{name}.state").read_text())["actual_pages"])

    def wake_ups(self) -> int:
        """How often its threads, and its workers', have gone to sleep so far."""
        found = 0
        for pid in (self.process.pid, *self.children()):
            for task in Path(f"/proc/{pid}/task").iterdir():
                for line in (task / "status").read_text().splitlines():
                    if line.startswith("voluntary_ctxt_switches"):
                        found += int(line.split()[1])
        return found

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End it; returns the exit code."""
        self.process.send_signal(how)
        code = self.process.wait(PATIENCE_S)
        self._log.close()
        return code


@contextmanager
def running(directory: Path, *options: str) -> Iterator[HostProcess]:
    """The program, inside the block."""
    host = HostProcess(directory, *options)
    try:
        yield host
    finally:
        if host.process.poll() is None:
            host.end(signal.SIGKILL)
