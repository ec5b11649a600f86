"""How much longer the guest waits for an inflate while fifty clients misbehave at the monitor."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ballonet.device.balloon import BalloonSettings
from ballonet.guests.ballooned import BalloonedGuest
from ballonet.guests.linux import LinuxGuestSettings
from ballonet.guests.processes import PrivateDirectory
from ballonet.monitor.serving import monitoring
from ballonet.vhost_user.listener import listening_socket
from bench.inflate import MEMORY_BYTES, PAGES, inflate_once
from bench.report import Figure, Ratio

__all__ = ["measure"]

ROUNDS = 5
_SETTLE_S = 1.0


def measure() -> Iterator[Ratio | Figure]:
    """Inflate 200,000 touched pages in turns, in peace and under a flood. Raises: GuestError."""
    peace: list[float] = []
    flood: list[float] = []
    with (
        PrivateDirectory("ballonet-bench-", mark="{}/qmp") as directory,
        BalloonedGuest(LinuxGuestSettings(MEMORY_BYTES), BalloonSettings()) as machine,
        listening_socket(directory / "qmp") as sock,
        monitoring(machine.device, [sock]),
    ):
        release = machine.guest.release
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(ROUNDS):
            peace.append(inflate_once(machine))
            with _flooding(directory / "qmp"):
                flood.append(inflate_once(machine))
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    yield Ratio(
        f"inflate {PAGES} touched pages, Linux {release}, monitor flooded",
        "50 clients flood the monitor",
        "nobody does",
        flood,
        peace,
        goal=1.2,
    )
    yield Figure("memory the process grew by under the flood", [grown / 1024], "MiB")


@contextmanager
def _flooding(path: Path) -> Iterator[None]:
    with subprocess.Popen([sys.executable, "-m", "bench.flood", path]) as process:
        time.sleep(_SETTLE_S)
        try:
            yield
        finally:
            process.kill()
