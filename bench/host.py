"""`ballonet host` with 1 to 1,000 guests: what each costs, and what a hostile one does to another.

The guests are embedded ones, all on one thread of this process; the latency is that of a driver
which sends one message of 256 pages after the other.
"""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, Self

import numpy as np

from ballonet.errors import GuestError
from ballonet.guests.embedded import EmbeddedGuestSettings, EmbeddedMachine
from ballonet.vhost_user.event_loop import EventLoop
from bench.device_process import LARGE_WANTED, Giver, LargeBench, cpu_seconds
from bench.report import Figure, Ratio

__all__ = ["measure"]

SIZES: Final = (1, 10, 100, 1000)
ROUNDS: Final = 5
_GUEST_BYTES: Final = 32 << 20
_MESSAGES: Final = 400
_FILES: Final = 1 << 17
_IDLE_S: Final = 2.0
_START_S: Final = 120.0


def measure() -> Iterator[Figure | Ratio]:
    """From few guests to many; the last one is the one with the hostile neighbour."""
    _raise_file_limit()
    resident: dict[int, float] = {}
    for guests in SIZES:
        with _Host(guests) as host, _embedded(host, guests):
            resident[guests] = host.resident_kib()
            switches, cpu_s = host.idle()
            p99_ms = [_p99_ms(host.latencies()) for _ in range(ROUNDS)]
        yield Figure(f"f. {guests} guests: resident memory of the host", [resident[guests]], "KiB")
        yield Figure(f"f. {guests} guests, idle: wake-ups in a second", [switches], "", goal=0)
        yield Figure(f"f. {guests} guests, idle: processor time in a second", [cpu_s * 1e3], "ms")
        yield Figure(f"f. {guests} guests: inflate of 256 pages, p99", p99_ms, "ms")
    first, last = SIZES[0], SIZES[-1]
    each = (resident[last] - resident[first]) / (last - first)
    yield Figure(f"f. {last} guests: resident memory for each above the first", [each], "KiB", 300)
    yield from _noisy()


def _noisy() -> Iterator[Ratio]:
    """One neighbour floods its ring."""
    peace: list[float] = []
    flood: list[float] = []
    elsewhere: list[float] = []
    with _Host(10) as host, _Host(1) as other, _embedded(host, 8):
        for _ in range(ROUNDS):
            peace.append(_p99_ms(host.latencies()))
            with _flooding(host.socket(8)):
                flood.append(_p99_ms(host.latencies()))
            with _flooding(other.socket(0)):
                elsewhere.append(_p99_ms(host.latencies()))
    what = "f. inflate of 256 pages, p99, with a guest that floods its ring"
    yield Ratio(f"{what}", "floods the same host", "nobody floods", flood, peace, "ms", 2)
    yield Ratio(
        f"{what} anywhere",
        "floods the same host",
        "floods another host on this machine",
        flood,
        elsewhere,
        "ms",
    )


def _p99_ms(times: Sequence[float]) -> float:
    return float(np.percentile(times, 99)) * 1e3


class _Host:
    """The program, with so many guests and one more for the driver that measures."""

    def __init__(self, guests: int) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="ballonet-bench-")
        self._path = Path(self._directory.name)
        names = [f"guest{number}" for number in range(guests)] + ["measured"]
        fields = {"version": 1, "guests": dict.fromkeys(names)}
        (self._path / "host.json").write_text(json.dumps(fields))

    def socket(self, number: int) -> Path:
        """Of a guest's device."""
        return self._path / f"guest{number}.sock"

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "ballonet", "host", "--directory", str(self._path)]
        self._process = subprocess.Popen(command)
        end_s = time.monotonic() + _START_S
        while not (self._path / "measured.qmp").is_socket():
            if time.monotonic() > end_s or self._process.poll() is not None:
                raise GuestError("the host does not start")
            time.sleep(0.02)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait()
        self._directory.cleanup()

    def resident_kib(self) -> float:
        """Resident memory, guests' rings that it has looked at included."""
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return float(line.split()[1])
        raise GuestError("the host is gone")

    def idle(self) -> tuple[float, float]:
        """Wake-ups and processor seconds in a second in which nothing happens."""
        time.sleep(1)
        switches, cpu_s = self._switches(), cpu_seconds(self._process.pid)
        time.sleep(_IDLE_S)
        return (
            (self._switches() - switches) / _IDLE_S,
            (cpu_seconds(self._process.pid) - cpu_s) / _IDLE_S,
        )

    def latencies(self) -> list[float]:
        """Seconds of each of some hundred messages."""
        times = []
        with LargeBench(self._path / "measured.sock").session(LARGE_WANTED) as session:
            giver = Giver(session)
            for number in range(_MESSAGES):
                pfns = giver.data_pages[number * 256 : (number + 1) * 256]
                begun_s = time.monotonic()
                giver.inflate(pfns)
                times.append(time.monotonic() - begun_s)
        return times

    def _switches(self) -> int:
        found = 0
        for task in Path(f"/proc/{self._process.pid}/task").iterdir():
            for line in (task / "status").read_text().splitlines():
                if line.startswith("voluntary_ctxt_switches"):
                    found += int(line.split()[1])
        return found


@contextmanager
def _embedded(host: _Host, count: int) -> Iterator[None]:
    """Embedded guests, running inside the block."""
    loop = EventLoop()
    with ExitStack() as stack:
        for number in range(count):
            settings = EmbeddedGuestSettings(_GUEST_BYTES, host.socket(number))
            stack.enter_context(EmbeddedMachine(settings, loop))
        thread = threading.Thread(target=loop.run)
        thread.start()
        try:
            time.sleep(1)
            yield
        finally:
            loop.stop()
            thread.join()
    loop.close()


@contextmanager
def _flooding(path: Path) -> Iterator[None]:
    with subprocess.Popen([sys.executable, "-m", "bench.flooder", path]) as process:
        time.sleep(1.5)
        try:
            yield
        finally:
            process.kill()


def _raise_file_limit() -> None:
    """Every guest has a dozen descriptors here, and as many in the host."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
