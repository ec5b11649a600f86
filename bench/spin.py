"""Whether looking on after each message pays: with the machine idle, and with others at work.

The device as it is, one that never looks on, and one that always does, each with a real guest of
its own; in turns, and with as many busy loops beside as there are processors.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from os import cpu_count
from typing import Final
from unittest.mock import patch

from ballonet.device.balloon import BalloonSettings
from ballonet.guests.ballooned import BalloonedGuest
from ballonet.guests.linux import LinuxGuestSettings
from ballonet.runtime import event_loop
from ballonet.runtime.spin import SPIN_NS, Spin
from bench.inflate import MEMORY_BYTES, PAGES, touch_all
from bench.report import Ratio

__all__ = ["measure"]

ROUNDS: Final = 6  # each way comes first as often as the others
_BUSY: Final = "import itertools\nfor _ in itertools.count(): pass"


class _Never:
    """Sleeps at once."""

    def expect_more(self, now_ns: int) -> None:
        """Nothing is expected."""

    def looks_on(self, now_ns: int) -> bool:
        """Never."""
        del now_ns
        return False

    def worked(self) -> None:
        """Something was there."""


class _Always(_Never):
    """Looks on for as long as `Spin` would at most, whether it paid or not."""

    def __init__(self) -> None:
        self._until_ns = 0

    def expect_more(self, now_ns: int) -> None:
        """Look on from now."""
        self._until_ns = now_ns + SPIN_NS

    def looks_on(self, now_ns: int) -> bool:
        """Until the time is over."""
        return now_ns < self._until_ns


_WAYS: Final[Mapping[str, Callable[[], Spin | _Never]]] = {
    "while it pays": Spin,
    "never": _Never,
    "always": _Always,
}


def measure() -> Iterator[Ratio]:
    """Seconds until the host has its memory, and the device's processor time for that."""
    with ExitStack() as stack:
        machines = {}
        for name, way in _WAYS.items():
            with patch.object(event_loop, "Spin", way):
                guest = BalloonedGuest(LinuxGuestSettings(MEMORY_BYTES), BalloonSettings())
                machines[name] = stack.enter_context(guest)
        yield from _compare("idle", machines)
        with _busy_loops():
            yield from _compare("busy", machines)


def _compare(state: str, machines: Mapping[str, BalloonedGuest]) -> Iterator[Ratio]:
    wall_s: dict[str, list[float]] = {name: [] for name in machines}
    cpu_us: dict[str, list[float]] = {name: [] for name in machines}
    for number in range(ROUNDS):
        names = list(machines)
        for name in names[number % 3 :] + names[: number % 3]:
            machine = machines[name]
            touch_all(machine)
            begun_s, cpu_before_s = time.monotonic(), time.process_time()
            machine.resize(PAGES, stalled_after_s=20)
            wall_s[name].append(time.monotonic() - begun_s)
            cpu_us[name].append((time.process_time() - cpu_before_s) / PAGES * 1e6)
            machine.resize(0, stalled_after_s=20)
    subject = "while it pays"
    for base in ("never", "always"):
        what = f"h. looking on after a message, {state} machine"
        yield Ratio(f"{what}: seconds of an inflate", subject, base, wall_s[subject], wall_s[base])
        yield Ratio(
            f"{what}: processor time of the device for a page",
            subject,
            base,
            cpu_us[subject],
            cpu_us[base],
            unit="µs",
        )


@contextmanager
def _busy_loops() -> Iterator[None]:
    with ExitStack() as stack:
        for _ in range(cpu_count() or 1):
            busy = stack.enter_context(subprocess.Popen([sys.executable, "-c", _BUSY]))
            stack.callback(busy.kill)
        yield
