"""`ballonet agent` as a process, and what it serves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Final, TypeVar
from urllib.error import HTTPError
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families
from tests.support.wait import PATIENCE_S, wait_until

BALLONET: Final = str(Path(sys.executable).with_name("ballonet"))

#: Between two scrapes.
_LOOK_S: Final = 0.1

T = TypeVar("T")
Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def configuration(
    match: Sequence[str],
    *,
    period_s: float = 0.5,
    poll_interval_s: int = 1,
    listen: str = "127.0.0.1:0",
) -> str:
    """A file for machines of these names."""
    patterns = ", ".join(f'"{one}"' for one in match)
    return (
        f"[agent]\nperiod_s = {period_s}\npoll_interval_s = {poll_interval_s}\n"
        f'match = [{patterns}]\n[metrics]\nlisten = "{listen}"\n'
    )


class AgentProcess:
    """The program."""

    def __init__(self, folder: Path, text: str, **environment: str) -> None:
        self.path: Final = folder / "ballonet.toml"
        self.directory: Final = folder / "run"
        self.path.write_text(text, encoding="utf-8")
        self._log = TemporaryFile()  # noqa: SIM115 - closed in `end`
        self.process = subprocess.Popen(
            self.command, stderr=self._log, env={**os.environ, **environment}
        )
        wait_until(self._is_ready, PATIENCE_S, "it serves nothing")

    @property
    def command(self) -> list[str]:
        """How it is started."""
        return [
            *(BALLONET, "agent", "--config", str(self.path), "--directory", str(self.directory)),
        ]

    @property
    def url(self) -> str:
        """Where it serves, without a path."""
        line = next(one for one in self.log() if "metrics are at" in one)
        return line.rpartition(" ")[2].removesuffix("/metrics")

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, self.log()
        return any("metrics are at" in one for one in self.log())

    def log(self) -> list[str]:
        """What it has written to stderr."""
        return os.pread(self._log.fileno(), 1 << 20, 0).decode().splitlines()

    def said(self, words: str) -> int:
        """How many lines of its log have these words."""
        return sum(words in line for line in self.log())

    def get(self, path: str) -> tuple[int, str]:
        """Status and text of an answer."""
        try:
            with urlopen(self.url + path, timeout=PATIENCE_S) as answer:  # noqa: S310 - http
                return answer.status, answer.read().decode()
        except HTTPError as error:
            return error.code, error.read().decode()

    def series(self) -> Series:
        """Every series of a scrape, by name and labels."""
        status, text = self.get("/metrics")
        assert status == 200, text
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def until(self, predicate: Callable[[], T | None], message: str) -> T:
        """Wait for something that it serves or says."""
        return wait_until(predicate, PATIENCE_S, f"{message}: {self.log()}", every_s=_LOOK_S)

    def value(self, name: str, **labels: str) -> float | None:
        """One value; None: it is not served."""
        return self.series().get((name, frozenset(labels.items())))

    def rounds(self) -> float:
        """Rounds so far."""
        return self.value("ballonet_agent_rounds_total") or 0.0

    def wait_for_rounds(self, count: int) -> None:
        """So many more."""
        end = self.rounds() + count
        self.until(lambda: self.rounds() >= end, "no rounds")

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End it; returns the exit code."""
        self.process.send_signal(how)
        return self.process.wait(PATIENCE_S)

    def close(self) -> None:
        """It is gone, and its log."""
        if self.process.poll() is None:
            self.end(signal.SIGKILL)
        self._log.close()


@contextmanager
def agent(folder: Path, text: str, **environment: str) -> Iterator[AgentProcess]:
    """The program, inside the block."""
    folder.mkdir(exist_ok=True)
    process = AgentProcess(folder, text, **environment)
    try:
        yield process
    finally:
        process.close()
