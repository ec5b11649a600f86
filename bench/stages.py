"""Where the device's processor time goes: `python -m bench.stages [contiguous|random|guest]`.

The device runs on this thread under Python's own profiler, which makes Python's share look bigger
than it is; its driver is a process of its own, or with `guest` a real kernel.
"""

from __future__ import annotations

import cProfile
import multiprocessing
import pstats
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Event
from pathlib import Path
from statistics import median
from threading import Thread
from typing import Final

import numpy as np

from ballonet.control.device_control import DeviceControl
from ballonet.device.balloon import BalloonSettings
from ballonet.guests.linux import LinuxGuest, LinuxGuestSettings
from ballonet.guests.processes import PrivateDirectory
from ballonet.vhost_user.listener import listening_socket
from ballonet.vhost_user.server import DeviceServer, make_server
from bench.device_process import LARGE_WANTED, MEMORY_BYTES, Giver, LargeRig

__all__ = ["main"]

PAGES: Final = 200_000 // 256 * 256
_ROWS: Final = 20
_ROUNDS: Final = 5
_ORDERS: Final = {
    "contiguous": "contiguous",
    "random": "random",
    "guest": "a real kernel's",
}
#: What a function is part of: its name or its file, the first that fits.
_STAGES: Final = (
    ("the kernel drops pages", ("punch_hole", "madvise_ranges")),
    ("looking for the next message", ("method 'poll'", "event_loop.py", "spin.py", "monotonic_ns")),
    ("system calls to answer, and to look after files", ("posix.write", "posix.fstat")),
    ("which pages a message means, and what waits", ("runs.py", "ballonet/balloon/", "numpy")),
    ("rings and messages", ("ring/", "ballonet/device/", "fence.py")),
    ("connection and server", ("vhost_user/", "mapping.py")),
)


def main(order: str) -> None:
    """What a message costs, and where that goes while a device gets 200,000 pages."""
    if order != "guest":
        _tell_message_cost(order)
    profiler = cProfile.Profile()
    seconds: list[float] = []
    with PrivateDirectory("ballonet-bench-") as directory:
        path = directory / "device"
        with listening_socket(path) as sock:
            settings = BalloonSettings()
            control = DeviceControl(make_server(settings, sock, listening=True))
            control.keep_latest()
            server = control.server
            run = _run_guest if order == "guest" else _run_driver

            def begin() -> None:
                server.loop.post(profiler.enable)

            def follow() -> None:
                try:
                    seconds.append(run(control, path, order, begin))
                finally:
                    server.stop()

            thread = Thread(target=follow)
            thread.start()
            server.run()
            profiler.disable()
            thread.join()
    _tell(order, seconds[0], pstats.Stats(profiler))


def _tell_message_cost(order: str) -> None:
    """Processor time for each message, without a profiler: from its kick to the end of its turn.

    Looks that find nothing are left out, and so are drops: the driver is answered long before.
    """
    samples: list[float] = []
    for _ in range(_ROUNDS):
        with PrivateDirectory("ballonet-bench-") as directory:
            path = directory / "device"
            with listening_socket(path) as sock:
                server = make_server(BalloonSettings(), sock, listening=True)
                control = DeviceControl(server)

                def drive(control: DeviceControl = control, path: Path = path) -> None:
                    _run_driver(control, path, order, lambda: None)
                    control.server.loop.post(lambda: None)

                thread = Thread(target=drive)
                thread.start()
                samples.append(_message_us(server, thread))
                thread.join()
                server.close()
                server.loop.close()
    listed = ", ".join(f"{sample:.1f}" for sample in sorted(samples))
    print(f"processor time for a message of 256 {_ORDERS[order]} pages, Python alone:")
    print(f"  {median(samples):.1f} µs (median of {listed})")


def _message_us(server: DeviceServer, driver: Thread) -> float:
    """Serve until the driver has left."""
    counters, ledger, spent_ns, messages = server.balloon.counters, server.balloon.ledger, 0, 0
    while driver.is_alive():
        before = counters.inflate_messages + 1, ledger.steps
        begun_ns = time.thread_time_ns()
        server.loop.step()
        if (counters.inflate_messages, ledger.steps) == before:
            spent_ns += time.thread_time_ns() - begun_ns
            messages += 1
    return spent_ns / messages / 1e3


def _run_driver(_: DeviceControl, path: Path, order: str, begin: Callable[[], None]) -> float:
    """Seconds of a driver that only sends, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ready, ended = context.Event(), context.Event()
    driver = context.Process(target=_drive, args=(path, order, ready, ended))
    driver.start()
    ready.wait()
    begin()
    begun_s = time.monotonic()
    ended.wait()
    driver.join()
    return time.monotonic() - begun_s


def _run_guest(control: DeviceControl, path: Path, _: str, begin: Callable[[], None]) -> float:
    """Seconds of a real kernel's driver."""
    with LinuxGuest(LinuxGuestSettings(MEMORY_BYTES, path)) as guest:
        guest.use_memory(90)
        begin()
        begun_s = time.monotonic()
        control.set_target(PAGES)
        while control.latest.actual_pages < PAGES:
            time.sleep(0.001)
        while control.status().waiting_bytes:  # what was put off is part of the work
            time.sleep(0.01)
        return time.monotonic() - begun_s


def _tell(order: str, seconds: float, stats: pstats.Stats) -> None:
    print(f"{PAGES} {_ORDERS[order]} pages in {seconds:.3f} s, in messages of 256;")
    print("microseconds of the device for each page:")
    for stage, stage_s in _stages(stats):
        print(f"  {stage_s / PAGES * 1e6:6.3f}  {stage}")
    for (_, _, name), row in stats.stats.items():  # type: ignore[attr-defined]
        if name == "_serve":
            print(f"  {row[3] / PAGES * 1e6:6.3f}  from finding a message to its answer, in all")
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


def _drive(path: Path, order: str, ready: Event, ended: Event) -> None:
    """The driver; in a process of its own."""
    with LargeRig(path).session(LARGE_WANTED) as session:
        giver = Giver(session)
        giver.fill()
        pages = giver.data_pages
        if order == "random":
            pages = np.random.default_rng(1).permutation(pages)
        ready.set()
        giver.inflate(pages[:PAGES])
        giver.wait_until_back(PAGES)
    ended.set()


if __name__ == "__main__":
    wanted = sys.argv[1] if len(sys.argv) > 1 else "contiguous"
    if wanted not in _ORDERS:
        sys.exit(f"{wanted}: not one of {', '.join(_ORDERS)}")
    main(wanted)
