"""`ballonet host` with 1 to 1,000 guests: what each costs, and what a hostile one does to another.

The guests have a VMM and a driver that set their rings up and then do nothing; the latency is that
of a driver which sends one message of 256 pages after the other.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np

from bench.host_process import HostProcess, idle_guests, raise_file_limit
from bench.report import Figure, Ratio

__all__ = ["measure"]

SIZES: Final = (1, 10, 100, 1000)
ROUNDS: Final = 5


def measure() -> Iterator[Figure | Ratio]:
    """From few guests to many, and one with a hostile neighbour."""
    raise_file_limit()
    for guests in SIZES:
        with HostProcess(guests) as host, idle_guests(host, guests):
            served = sum(bool(row["connected"]) for row in host.rows())
            private_kib = host.private_kib()
            switches, cpu_s = host.idle()
            added_ms = [host.seconds_to_add(f"added{number}") * 1e3 for number in range(ROUNDS)]
            p99_ms = [_p99_ms(host.latencies()) for _ in range(ROUNDS)]
        name = f"f. {guests} guests"
        yield Figure(f"{name}: served at once", [served], "")
        yield Figure(f"{name}: private memory of the worker of each", [private_kib], "KiB", 4096)
        yield Figure(f"{name}, idle: wake-ups in a second", [switches], "", goal=0)
        yield Figure(f"{name}, idle: processor time in a second", [cpu_s * 1e3], "ms")
        yield Figure(f"{name}: from `add` to the device's first answer", added_ms, "ms", 50)
        yield Figure(f"{name}: inflate of 256 pages, p99", p99_ms, "ms")
    yield from _noisy()


def _noisy() -> Iterator[Ratio]:
    """One neighbour floods its ring."""
    peace: list[float] = []
    flood: list[float] = []
    with HostProcess(10) as host, idle_guests(host, 8):
        for _ in range(ROUNDS):
            peace.append(_p99_ms(host.latencies()))
            with _flooding(host.socket(8)):
                flood.append(_p99_ms(host.latencies()))
    what = "f. inflate of 256 pages, p99, with a guest of the same host that floods its ring"
    yield Ratio(what, "one floods", "nobody floods", flood, peace, "ms", 1.5)


def _p99_ms(times: Sequence[float]) -> float:
    return float(np.percentile(times, 99)) * 1e3


@contextmanager
def _flooding(path: Path) -> Iterator[None]:
    with subprocess.Popen([sys.executable, "-m", "bench.flooder", path]) as process:
        time.sleep(1.5)
        try:
            yield
        finally:
            process.kill()
