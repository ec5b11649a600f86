"""200 guests of a host, watched every two seconds: what that costs, and with some that hang.

The guests have a VMM, a driver and statistics, and do nothing; the watcher is this process.  To
find out who is there is measured among a thousand other processes.
"""

from __future__ import annotations

import asyncio
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final
from urllib.request import urlopen

from ballonet.conform.device.session import DeviceSession
from ballonet.errors import GuestError
from ballonet.virtio.queues import QueueRole
from ballonet.virtio.stats import STATS
from ballonet.vms.discovery import Found, find_machines, look_at
from ballonet.vms.find_ours import guests_of_host
from ballonet.vms.sighting import Sighting
from ballonet.vms.watch import Watch
from bench.device_process import cpu_seconds
from bench.host_process import HostProcess, idle_guests, raise_file_limit
from bench.report import Figure, Ratio

__all__ = ["measure"]

GUESTS: Final = 200
ROUNDS: Final = 10
PERIOD_S: Final = 2.0
_HANGING: Final = 5
_PROCESSES: Final = 1000
_PATIENCE_S: Final = 20.0
_STAT: Final = struct.Struct("<HQ")
_NAME: Final = f"w. {GUESTS} guests of a host, watched"


def measure() -> Iterator[Figure | Ratio]:
    """Rounds in peace, rounds with some that hang, who is there, and each guest by itself."""
    raise_file_limit()
    with HostProcess(GUESTS) as host, idle_guests(host, GUESTS) as sessions:
        _send_statistics(sessions)
        yield from asyncio.run(_in_peace(host))
        yield from asyncio.run(_with_hanging(host))
        yield from asyncio.run(_finding())
        yield from _by_an_agent()
        yield from asyncio.run(_one_by_one(host))


async def _in_peace(host: HostProcess) -> list[Figure]:
    """As a program does that watches everything that runs here."""
    rounds_ms, host_ms = [], []
    async with Watch(["guest*"]) as watch:
        _check(await watch.round(_PATIENCE_S))
        begun_s, begun_cpu_s = time.monotonic(), time.process_time()
        for number in range(ROUNDS):
            await asyncio.sleep(max(0.0, begun_s + number * PERIOD_S - time.monotonic()))
            before_s, before_cpu_s = time.monotonic(), host.cpu_s()
            _check(await watch.round(_PATIENCE_S))
            rounds_ms.append((time.monotonic() - before_s) * 1e3)
            host_ms.append((host.cpu_s() - before_cpu_s) * 1e3)
        cpu_s = time.process_time() - begun_cpu_s
    share = 100 * cpu_s / (ROUNDS * PERIOD_S)
    return [
        Figure(f"{_NAME}: one round", rounds_ms, "ms", 1000),
        Figure(f"{_NAME} every {PERIOD_S:g} s: processor time of who watches", [share], "%", 10),
        Figure(f"{_NAME}: processor time of the host and all workers, one round", host_ms, "ms"),
    ]


async def _with_hanging(host: HostProcess) -> list[Figure]:
    """Some workers stand still; the first round with them waits for them."""
    name = f"{_NAME}, {_HANGING} of them hang"
    first_ms: list[float] = []
    rounds_ms: list[float] = []
    late: list[float] = []
    async with Watch(["guest*"]) as watch:
        for _ in range(ROUNDS // 2):
            await watch.round(_PATIENCE_S)
            with _stopped(host.workers()[:_HANGING]):
                for times in (first_ms, rounds_ms):
                    begun_s = time.monotonic()
                    found = await watch.round(_PATIENCE_S)
                    times.append((time.monotonic() - begun_s) * 1e3)
                    late.append(GUESTS - _HANGING - sum(_is_of(one, begun_s) for one in found))
    return [
        Figure(f"{name}: the first round", first_ms, "ms"),
        Figure(f"{name}: every other round", rounds_ms, "ms", 1000),
        Figure(f"{name}: others whose observation is not of the round", late, "", 0),
    ]


def _is_of(found: Found, begun_s: float) -> bool:
    """It tells something that was so after that moment."""
    return not found.why_not and found.observation.at_s >= begun_s


async def _finding() -> list[Figure]:
    """What happens once in ten seconds."""
    wall_ms, cpu_ms = [], []
    with _other_processes():
        for _ in range(ROUNDS):
            begun_s, begun_cpu_s = time.monotonic(), time.process_time()
            await find_machines()
            wall_ms.append((time.monotonic() - begun_s) * 1e3)
            cpu_ms.append((time.process_time() - begun_cpu_s) * 1e3)
    name = f"w. finding {GUESTS} guests of a host among {_PROCESSES} other processes"
    return [
        Figure(f"{name}", wall_ms, "ms"),
        Figure(f"{name}: processor time", cpu_ms, "ms"),
    ]


def _by_an_agent() -> list[Figure]:
    """The program itself: what a scrape takes, and the agent of a core."""
    scrapes_ms = []
    with TemporaryDirectory() as name, _agent(Path(name)) as (pid, url):
        _wait_for_all(url)
        begun_s, begun_cpu_s = time.monotonic(), cpu_seconds(pid)
        for number in range(ROUNDS):
            time.sleep(max(0.0, begun_s + number * PERIOD_S - time.monotonic()))
            before_s = time.monotonic()
            _scraped(url)
            scrapes_ms.append((time.monotonic() - before_s) * 1e3)
        share = 100 * (cpu_seconds(pid) - begun_cpu_s) / (time.monotonic() - begun_s)
    name = f"w. `ballonet agent` over {GUESTS} guests of a host"
    return [
        Figure(f"{name}: a scrape", scrapes_ms, "ms", 100),
        Figure(f"{name}, scraped every {PERIOD_S:g} s: processor time", [share], "%", 10),
    ]


@contextmanager
def _agent(folder: Path) -> Iterator[tuple[int, str]]:
    """Its process, and where it serves."""
    path = folder / "ballonet.toml"
    path.write_text(
        f'[agent]\nperiod_s = {PERIOD_S}\nmatch = ["guest*"]\n[metrics]\nlisten = "127.0.0.1:0"\n'
    )
    command = [sys.executable, "-m", "ballonet", "agent", "--config", str(path)]
    with subprocess.Popen(
        [*command, "--directory", str(folder / "run")], stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            told = next(line for line in process.stderr or () if "metrics are at" in line)
            yield process.pid, told.split()[-1]
        finally:
            process.terminate()


def _wait_for_all(url: str) -> None:
    """Raises: GuestError, unless the agent sees every guest in time."""
    end_s = time.monotonic() + _PATIENCE_S
    while _scraped(url).count("\nballonet_vm_up{") < GUESTS:
        if time.monotonic() > end_s:
            raise GuestError(f"the agent does not see {GUESTS} guests")
        time.sleep(PERIOD_S / 2)


def _scraped(url: str) -> str:
    with urlopen(url, timeout=_PATIENCE_S) as answer:  # noqa: S310 - the agent's
        return str(answer.read().decode())


async def _one_by_one(host: HostProcess) -> list[Figure | Ratio]:
    """What the question to the host saves."""
    sightings = await guests_of_host(host.path)
    alone = [replace(one, place="") for one in sightings]
    before_kib = host.private_kib()
    together_ms, alone_ms = [], []
    for _ in range(ROUNDS // 2):
        together_ms.append(await _cpu_ms(sightings))
        alone_ms.append(await _cpu_ms(alone))
    name = f"w. one look at {GUESTS} guests of a host: processor time of who looks"
    grown_kib = host.private_kib() - before_kib
    return [
        Ratio(name, "one question to the host", "one to each guest", together_ms, alone_ms, "ms"),
        Figure("w. memory that a worker has of its own once somebody asks it", [grown_kib], "KiB"),
    ]


async def _cpu_ms(sightings: Sequence[Sighting]) -> float:
    begun_s = time.process_time()
    _check(await look_at(sightings, _PATIENCE_S))
    return (time.process_time() - begun_s) * 1e3


def _check(found: Sequence[Found]) -> None:
    """Raises: GuestError, unless every guest is there and has statistics."""
    told = sum(bool(one.observation.statistics) for one in found)
    if told < GUESTS:
        raise GuestError(f"{told} of {GUESTS} guests tell statistics")


def _send_statistics(sessions: Sequence[DeviceSession]) -> None:
    raw = b"".join(_STAT.pack(row.tag, 1 << 20 | row.tag) for row in STATS)
    for session in sessions:
        session.post(QueueRole.STATS, [session.memory.message(raw)])


@contextmanager
def _stopped(pids: Sequence[int]) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


@contextmanager
def _other_processes() -> Iterator[None]:
    processes = [subprocess.Popen(["sleep", "infinity"]) for _ in range(_PROCESSES)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
