"""What the screen of `ballonet top` costs: 200 VMs, 200 columns, 60 lines, everything changes."""

from __future__ import annotations

import time
from collections.abc import Iterator

from ballonet.cli.top.painter import Painter
from ballonet.cli.top.rows import Sort, Tracks
from ballonet.cli.top.screen import Scene, screen_lines
from ballonet.cli.top.view import View
from ballonet.virtio.stats import STATS
from ballonet.vms.discovery import Found
from ballonet.vms.observation import Aged, HostMemory, MachineId, Observation
from ballonet.vms.sighting import Sighting
from ballonet.vms.this_host import look_at_this_host
from bench.report import Figure, Ratio

__all__ = ["measure"]

VMS = 200
COLUMNS, LINES = 200, 60
ROUNDS = 20
INTERVAL_S = 2.0


def measure() -> Iterator[Ratio | Figure]:
    """Processor time from the observations of a round to the bytes for the terminal."""
    tracks, view, painter = Tracks(), View(Sort.RATE), Painter()
    spent: list[float] = []
    for number in range(ROUNDS):
        found = [_found(vm, number) for vm in range(VMS)]
        begun_s = time.process_time()
        scene = Scene(time.strftime("%H:%M:%S"), INTERVAL_S, look_at_this_host())
        view.see(tracks.see(found))
        painter.paint(screen_lines(view, scene, COLUMNS, LINES), COLUMNS)
        spent.append((time.process_time() - begun_s) / INTERVAL_S * 100)
    yield Figure(f"screen of ballonet top, {VMS} VMs every 2 s", spent, "% of a core", goal=10)


def _found(vm: int, number: int) -> Found:
    """One whose every figure is another in every round."""
    who = MachineId("ballonet", f"vm-{vm:03}", f"/run/vm-{vm:03}.qmp", vm)
    at_s = INTERVAL_S * number
    look = Observation(
        who,
        at_s,
        memory_bytes=1 << 32,
        target_bytes=1 << 31,
        actual_bytes=(1 << 31) + ((vm + number) << 20),
        statistics={row.name: Aged((vm + number) << 22, 1.0) for row in STATS},
        host=HostMemory((1 << 30) + (number << 20)),
        paused=False,
        has_driver=True,
        poll_interval_s=2,
        stats_last_update_s=1_000_000 + int(at_s),
    )
    return Found(Sighting(who, who.uri), look)
