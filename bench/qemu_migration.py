"""A real QEMU's guest migrated to another: with free page hints, squeezed, and as it is.

Every time a guest boots, uses most of its memory and frees it again, so that what is free is not
zeros.  The three ways take turns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from ballonet.errors import GuestError
from ballonet.guests.qemu import HINTING, QemuGuest, used_and_freed
from ballonet.vms.addresses import connected
from ballonet.vms.migration import Migration, MigrationViewer
from ballonet.vms.migration_progress import MigrationOutcome
from ballonet.vms.migration_setup import MigrationRequest
from bench.report import Ratio

__all__ = ["measure"]

ROUNDS: Final = 3
_MIB: Final = 1 << 20
_MEMORY_BYTES: Final = 1 << 30
_STALE_BYTES: Final = 700 << 20
#: A link, so that bytes are time.
_BANDWIDTH: Final = 100 << 20


def measure() -> Iterator[Ratio]:
    """Bytes and seconds over those of a guest that is moved as it is."""
    plain: list[MigrationOutcome] = []
    hinted: list[MigrationOutcome] = []
    squeezed: list[MigrationOutcome] = []
    for _ in range(ROUNDS):
        plain.append(_move())
        hinted.append(_move(*HINTING))
        squeezed.append(_move(squeezes=True))
    for name, ways in (("with hints", hinted), ("squeezed", squeezed)):
        yield Ratio(
            f"m. QEMU to QEMU, {name}: bytes sent of a guest of 1 GiB, 700 MiB used and freed",
            name,
            "as it is",
            [way.look.transferred_bytes / _MIB for way in ways],
            [way.look.transferred_bytes / _MIB for way in plain],
            unit="MiB",
            goal=0.75,
        )
        yield Ratio(
            f"m. QEMU to QEMU, {name}: time at 100 MiB/s",
            name,
            "as it is",
            [way.look.total_time_s or 0.0 for way in ways],
            [way.look.total_time_s or 0.0 for way in plain],
        )


def _move(*balloon_options: str, squeezes: bool = False) -> MigrationOutcome:
    """Boot, move, and end both. Raises: GuestError, if the guest does not arrive."""
    with TemporaryDirectory() as folder, ExitStack() as stack:
        socket = Path(folder) / "in"
        first = used_and_freed(_STALE_BYTES)
        here = stack.enter_context(QemuGuest(_MEMORY_BYTES, *balloon_options, first=first))
        stack.enter_context(QemuGuest(_MEMORY_BYTES, *balloon_options, incoming=socket))
        request = MigrationRequest(
            f"unix:{socket}", bandwidth_bytes_per_s=_BANDWIDTH, squeezes=squeezes
        )
        viewer = MigrationViewer(lambda _: None, lambda _: None, lambda _: None)
        way = Migration(lambda: connected(str(here.qmp_path)), request, viewer)
        outcome = asyncio.run(way.run())
    if not outcome.is_completed or squeezes != (outcome.squeezed_to_bytes is not None):
        raise GuestError(f"QEMU's guest was not moved as it should be: {outcome.why}")
    return outcome
