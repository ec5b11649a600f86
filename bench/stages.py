"""Where the device's processor time goes: `python -m bench.stages [contiguous|random]`.

The device runs on this thread under Python's own profiler, which makes Python's share look bigger
than it is; its driver is a process of its own.
"""

from __future__ import annotations

import cProfile
import multiprocessing
import pstats
import sys
import tempfile
from collections.abc import Iterator
from multiprocessing.synchronize import Event
from pathlib import Path
from threading import Thread
from typing import Final

import numpy as np

from ballonet.device.balloon import BalloonSettings
from ballonet.vhost_user.event_loop import EventLoop
from ballonet.vhost_user.listener import listening_socket
from ballonet.vhost_user.server import DeviceServer
from bench.device_process import LARGE_WANTED, Giver, LargeBench

__all__ = ["main"]

PAGES: Final = 200_000 // 256 * 256
_ROWS: Final = 20
#: What a function is part of: its name or its file, the first that fits.
_STAGES: Final = (
    ("the kernel drops pages", ("punch_hole", "madvise_ranges")),
    ("looking for the next message", ("method 'poll'",)),
    ("system calls to answer, and to look after files", ("posix.write", "posix.fstat")),
    ("which pages a message means, and what waits", ("runs.py", "deferral.py", "numpy")),
    ("rings and messages", ("ring/", "balloon.py", "inflation.py", "pfns.py", "fence.py")),
    ("loop and connection", ("vhost_user/", "inhibition.py", "mapping.py")),
)


def main(order: str) -> None:
    """Profile one device that gets 200,000 pages."""
    profiler = cProfile.Profile()
    with tempfile.TemporaryDirectory(prefix="ballonet-bench-") as directory:
        path = Path(directory) / "device"
        with listening_socket(path) as sock:
            loop = EventLoop()
            settings = BalloonSettings(defers=True)
            server = DeviceServer(settings, sock, listening=True, loop=loop)
            context = multiprocessing.get_context("spawn")
            begun, ended = context.Event(), context.Event()
            driver = context.Process(target=_drive, args=(path, order, begun, ended))
            driver.start()

            def follow() -> None:
                begun.wait()
                loop.post(profiler.enable)
                ended.wait()
                loop.stop()

            Thread(target=follow, daemon=True).start()
            loop.run()
            profiler.disable()
            server.close()
            loop.close()
            driver.join()
    stats = pstats.Stats(profiler)
    print(f"{PAGES} {order} pages, one message of 256 at a time; microseconds for each page:")
    for stage, seconds in _stages(stats):
        print(f"  {seconds / PAGES * 1e6:6.3f}  {stage}")
    stats.sort_stats("tottime").print_stats(_ROWS)


def _stages(stats: pstats.Stats) -> Iterator[tuple[str, float]]:
    """Seconds of each stage, without those of what it calls."""
    rest = dict.fromkeys((name for name, _ in _STAGES), 0.0) | {"everything else": 0.0}
    for (file, _, name), row in stats.stats.items():  # type: ignore[attr-defined]
        seconds = row[2]
        where = f"{file} {name}"
        for stage, parts in _STAGES:
            if any(part in where for part in parts):
                rest[stage] += seconds
                break
        else:
            rest["everything else"] += seconds
    yield from rest.items()


def _drive(path: Path, order: str, begun: Event, ended: Event) -> None:
    """The driver; in a process of its own."""
    with LargeBench(path).session(LARGE_WANTED) as session:
        giver = Giver(session)
        giver.fill()
        pages = giver.data_pages
        if order == "random":
            pages = np.random.default_rng(1).permutation(pages)
        begun.set()
        giver.inflate(pages[:PAGES])
        giver.wait_until_back(PAGES)
    ended.set()


if __name__ == "__main__":
    wanted = sys.argv[1] if len(sys.argv) > 1 else "contiguous"
    if wanted not in {"contiguous", "random"}:
        sys.exit(f"{wanted}: not contiguous or random")
    main(wanted)
