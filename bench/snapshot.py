"""Memory snapshots of a real kernel: how long it stands still, and how small the images are.

In use is what the guest's kernel does not count as free, and is not in the balloon.  What hints
would leave out is only counted: nobody sees a User-Mode Linux write, so they cannot be applied.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ballonet.device.balloon import BalloonSettings
from ballonet.errors import GuestError
from ballonet.guests.ballooned import BalloonedGuest
from ballonet.guests.hinting import run_hint_round
from ballonet.guests.linux import LinuxGuestSettings
from ballonet.guests.snapshot import Snapshot, take_snapshot
from ballonet.guests.squeeze import squeezed
from ballonet.units import bytes_to_pages, pages_to_bytes
from ballonet.virtio.features import DEFAULT_OFFER, Feature
from bench.inflate import MEMORY_BYTES, touch_all
from bench.report import Figure, Ratio

__all__ = ["measure"]

ROUNDS: Final = 5
_KEPT: Final = "dd if=/dev/urandom of=/tmp/keep bs=1M count=200"
_WORK: Final = (
    "(while :; do dd if=/dev/urandom of=/tmp/work bs=64k count=160; done) >/dev/null 2>&1 &"
    " echo $! >/tmp/pids; (while :; do :; done) >/dev/null 2>&1 & echo $! >>/tmp/pids"
)
_REST: Final = "kill -9 $(cat /tmp/pids)"


def measure() -> Iterator[Ratio | Figure]:
    """A guest of 1 GiB that holds 200 MiB; the rest of its memory was touched and is free again."""
    squeezed_mib: list[float] = []
    used_mib: list[float] = []
    plain: list[Snapshot] = []
    small: list[Snapshot] = []
    working: list[Snapshot] = []
    hinted_mib: list[float] = []
    balloon = BalloonSettings(DEFAULT_OFFER | Feature.DEFLATE_ON_OOM)
    with (
        BalloonedGuest(LinuxGuestSettings(MEMORY_BYTES), balloon) as machine,
        # In memory, so that a disk is no part of the figures.
        tempfile.TemporaryDirectory(prefix="ballonet-", dir="/dev/shm") as folder,
    ):
        path = Path(folder) / "image"
        machine.guest.check(_KEPT)
        for _ in range(ROUNDS):
            touch_all(machine)
            plain.append(take_snapshot(machine.guest.pid, path))
            hinted_mib.append(run_hint_round(machine.device).hinted_bytes / 2**20)
            with squeezed(machine) as balloon_pages:
                small.append(take_snapshot(machine.guest.pid, path))
                free_pages = bytes_to_pages(machine.guest.meminfo()["MemFree"])
            used_pages = bytes_to_pages(MEMORY_BYTES) - balloon_pages - free_pages
            squeezed_mib.append(_mib(small[-1]))
            used_mib.append(pages_to_bytes(used_pages) / 2**20)
            if not machine.resize(0, stalled_after_s=20).reached:
                raise GuestError("the balloon does not become empty again")
            machine.guest.check(_WORK)
            working.append(take_snapshot(machine.guest.pid, path))
            machine.guest.run(_REST)
    yield Ratio(
        "s. memory snapshot, the free memory in the balloon: pages in the image, over those in use",
        "in the image",
        "in use in the guest",
        squeezed_mib,
        used_mib,
        unit="MiB",
        goal=1.05,
    )
    yield Figure("s. memory snapshot as it is: image", [_mib(one) for one in plain], "MiB")
    yield Figure("s. memory snapshot: hinted, not left out", hinted_mib, "MiB")
    for name, taken in (("as it is", plain), ("squeezed", small), ("at work", working)):
        yield Figure(
            f"s. memory snapshot, {name}: the guest stands still",
            [one.stopped_seconds * 1e3 for one in taken],
            "ms",
        )
    yield Figure(
        "s. memory snapshot, at work: until nothing of the guest runs",
        [one.still_seconds * 1e3 for one in working],
        "ms",
    )


def _mib(taken: Snapshot) -> float:
    return pages_to_bytes(taken.pages) / 2**20
