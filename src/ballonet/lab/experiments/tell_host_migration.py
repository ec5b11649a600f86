"""What the device is told when the guest's kernel moves a page of the balloon."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from ballonet.balloon.facts import ChainDone, ConfigWritten, Fact
from ballonet.guests.ballooned import BalloonedGuest
from ballonet.lab.driver_guest import driver_guest, fill
from ballonet.lab.experiment import Experiment, Kernel
from ballonet.lab.notebook import Notebook
from ballonet.lab.page_moves import PageMove, Told, balloon_of, follow_moves
from ballonet.lab.scattered_balloon import BALLOON_PAGES, MEMORY_BYTES, compact, scatter
from ballonet.lab.waiting import wait_until
from ballonet.memory.held_pages import held_pages
from ballonet.units import bytes_to_pages
from ballonet.virtio.features import Feature
from ballonet.virtio.queues import QueueRole

__all__ = ["EXPERIMENT"]

_SHOWN: Final = 3


class _Watch:
    """Every message in order, and whether `actual` was written; on the device's thread."""

    def __init__(self) -> None:
        self.told: Final[list[Told]] = []
        self.config_writes = 0

    def observe(self, fact: Fact) -> None:
        match fact:
            case ChainDone(QueueRole.INFLATE | QueueRole.DEFLATE, _, pfns) if pfns is not None:
                self.told.append(Told(fact.role is QueueRole.INFLATE, tuple(pfns.tolist())))
            case ConfigWritten():
                self.config_writes += 1


def _on_uml(notebook: Notebook) -> None:
    watch = _Watch()
    with driver_guest(notebook, Feature.MUST_TELL_HOST, memory_bytes=MEMORY_BYTES) as machine:
        notebook.step(f"a balloon of {BALLOON_PAGES:,} pages lies scattered between free pages")
        machine.device.subscribe(watch.observe, details=True)
        scatter(machine.guest, partial(fill, machine))
        first, writes = len(watch.told), watch.config_writes
        notebook.step("the guest's memory is compacted, and the device listens")
        moved = compact(machine.guest).moved
        writes = watch.config_writes - writes
        machine.device.expedite()
        wait_until(lambda: not machine.device.status().waiting_bytes, "the host has not got all")
        before, told = balloon_of(watch.told[:first]), watch.told[first:]
        held = _held_of(machine, balloon_of(watch.told))
        actual_pages = machine.device.status().actual_pages
    moves = follow_moves(told, before)
    _show(notebook, told, moves, moved)
    notebook.claim(
        "each move is two messages of one page: an inflate of a page that was not in the balloon,"
        " then a deflate of one that was",
        holds=moves is not None and len(moves) == moved > 0,
    )
    notebook.claim(
        "`actual` is not written meanwhile, and is right before and after",
        holds=writes == 0 and actual_pages == len(before) == BALLOON_PAGES,
    )
    notebook.claim("the host has dropped every page that is in the balloon now", holds=not held)
    notebook.conclude(
        f"For {moved:,} pages that were moved the device had {len(told):,} messages: each"
        " time an inflate of the new page, then a deflate of the old one."
    )


def _show(
    notebook: Notebook, told: Sequence[Told], moves: Sequence[PageMove] | None, moved: int
) -> None:
    notebook.see("moved by the kernel (balloon_migrate)", moved, "pages")
    notebook.see("moves that the messages tell of", 0 if moves is None else len(moves))
    notebook.table(
        "the first messages",
        ("message", "page"),
        [(one.verb, ", ".join(map(hex, one.pfns))) for one in told[: 2 * _SHOWN]],
    )


def _held_of(machine: BalloonedGuest, pfns: set[int]) -> set[int]:
    """Those pages that have host memory behind them."""
    path = machine.guest.memory_file()
    with path.open("rb") as file:
        held = held_pages(file.fileno(), bytes_to_pages(path.stat().st_size))
    return {pfn for pfn in pfns if held[pfn]}


EXPERIMENT: Final = Experiment(
    name="tell-host-migration",
    question="In which order does tell_host tell of a page of the balloon that is moved?",
    answer="First the driver gives the new page by an inflate message and waits for the answer,"
    " then it takes the old page back by a deflate message and waits again.",
    explanation="virtballoon_migratepage calls tell_host twice, under the lock that keeps all"
    " other messages off. In between the host sees one page more in the balloon than `actual`"
    " says, and `actual` is not written at all: a device must not insist that its count is never"
    " above it. The other order would leave the guest with a page less in the balloon than the"
    " host was promised.",
    sources=(
        "Linux drivers/virtio/virtio_balloon.c, virtballoon_migratepage, tell_host",
        "Linux mm/balloon_compaction.c, balloon_page_isolate, balloon_page_putback",
        "Virtio specification 1.3, section 5.5.6 (Device Operation)",
    ),
    runs={Kernel.UML: _on_uml},
)
