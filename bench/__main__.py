"""`make bench`: every measurement, printed and written to build/bench.json.

`python -m bench autopilot` is one by itself: it takes as long as all others, and more.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from bench import (
    back,
    cpu,
    free_pages,
    guest_migration,
    host,
    inflate,
    kinds,
    migration_stream,
    monitor,
    pace,
    page,
    qemu_migration,
    snapshot,
    spin,
    stats,
    top,
    tracking,
    watch,
)
from bench.autopilot.real import plays
from bench.report import Figure, Ratio, machine, write_json

RESULTS = Path("build/bench.json")
MEASURES: Final[Mapping[str, Callable[[], Iterator[Ratio | Figure]]]] = {
    "inflate": inflate.measure,
    "back": back.measure,
    "cpu": cpu.measure,
    "pace": pace.measure,
    "spin": spin.measure,
    "kinds": kinds.measure,
    "free-pages": free_pages.measure,
    "stats": stats.measure,
    "host": host.measure,
    "watch": watch.measure,
    "page": page.measure,
    "monitor": monitor.measure,
    "top": top.measure,
    "guest-migration": guest_migration.measure,
    "tracking": tracking.measure,
    "snapshot": snapshot.measure,
    "qemu-migration": qemu_migration.measure,
    "migration-stream": migration_stream.measure,
}


def main(names: list[str]) -> None:
    """Measure everything, or what is named."""
    here = machine()
    print(f"on {here['processor']}, {here['cores']} cores, Linux {here['kernel']}")
    found: list[Ratio | Figure] = []
    for name in names or MEASURES:
        for one in MEASURES[name]():
            print("\n".join(one.lines()), flush=True)
            found.append(one)
    write_json(found, RESULTS)
    print(f"written to {RESULTS}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["autopilot"]:
        plays.main(sys.argv[2:])
    else:
        main(sys.argv[1:])
