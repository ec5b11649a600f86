"""A machine of Firecracker's or Cloud Hypervisor's kind: its API, a device and a guest, running."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.support.programs import started, wait_for_listener

from ballonet.guests.embedded import EmbeddedGuestSettings
from ballonet.guests.embedded_process import EmbeddedGuest

__all__ = ["RAM_BYTES", "RestMachine", "cloud_hypervisor", "firecracker", "program"]

RAM_BYTES: Final = 256 << 20


@dataclass(frozen=True, slots=True)
class RestMachine:
    """What a test wants to know of it."""

    path: Path  #: of its API
    pid: int
    guest: EmbeddedGuest
    log: Path

    def said(self) -> list[dict[str, Any]]:
        """Every request so far, and its answer."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@contextmanager
def firecracker(folder: Path, name: str, interval_s: int = 1) -> Iterator[RestMachine]:
    """One that was started with statistics, unless the interval is 0."""
    api = ["--api-sock", str(folder / f"{name}.api"), "--id", name, "--interval", str(interval_s)]
    with _machine(folder, name, "firecracker", api) as machine:
        yield machine


@contextmanager
def cloud_hypervisor(folder: Path, name: str) -> Iterator[RestMachine]:
    """One with a balloon."""
    api = ["--api-socket", f"path={folder / f'{name}.api'}"]
    with _machine(folder, name, "cloud-hypervisor", api) as machine:
        yield machine


@contextmanager
def _machine(folder: Path, name: str, kind: str, api: list[str]) -> Iterator[RestMachine]:
    balloon, log = folder / f"{name}.balloon", folder / f"{name}.log"
    arguments = ["-m", "tests.support.rest_vmm", *api, "--balloon", str(balloon), "--log", str(log)]
    with program(kind, arguments) as vmm:
        wait_for_listener(folder / f"{name}.api")
        settings = EmbeddedGuestSettings(RAM_BYTES, balloon, workload="web")
        with EmbeddedGuest(settings) as guest:
            yield RestMachine(folder / f"{name}.api", vmm.pid, guest, log)
        vmm.terminate()


@contextmanager
def program(name: str, arguments: list[str]) -> Iterator[subprocess.Popen[Any]]:
    """Python as a program of another name, as /proc shows it."""
    paths = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, sys.path)])
    with started(
        [name, *arguments],
        executable=sys.executable,
        env={**os.environ, "PYTHONPATH": paths},
        stdin=subprocess.DEVNULL,
    ) as process:
        try:
            yield process
        finally:
            process.kill()
