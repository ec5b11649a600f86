"""What compaction does to a balloon, and to the guest's huge pages."""

from __future__ import annotations

from functools import partial
from typing import Final

from ballonet.lab.driver_guest import driver_guest, fill
from ballonet.lab.experiment import Experiment, Kernel
from ballonet.lab.notebook import Notebook
from ballonet.lab.scattered_balloon import (
    BALLOON_PAGES,
    MEMORY_BYTES,
    compact,
    keep_unanswered,
    scatter,
)
from ballonet.virtio.features import Feature

__all__ = ["EXPERIMENT"]


def _on_uml(notebook: Notebook) -> None:
    with driver_guest(notebook, Feature.MUST_TELL_HOST, memory_bytes=MEMORY_BYTES) as machine:
        notebook.step(f"a balloon of {BALLOON_PAGES:,} pages lies scattered between free pages")
        scatter(machine.guest, partial(fill, machine))
        notebook.step("compaction, while the driver cannot move a page of the balloon")
        with keep_unanswered(machine):
            without = compact(machine.guest)
        notebook.step("compaction, with a balloon that can be moved")
        before = machine.device.status()
        with_it = compact(machine.guest)
        after = machine.device.status()
    told = after.counters.inflated_pages - before.counters.inflated_pages
    notebook.table(
        "free blocks of 2 MiB, and pages of the balloon that were moved",
        ("the balloon's pages", "before", "after", "moved (balloon_migrate)"),
        [
            ("stay where they are", without.blocks_before, without.blocks_after, without.moved),
            ("can be moved", with_it.blocks_before, with_it.blocks_after, with_it.moved),
        ],
    )
    notebook.see("the device was told of other pages", told, "pages")
    notebook.claim(
        "a balloon that cannot be moved was not moved, and the other was",
        holds=without.moved == 0 < with_it.moved,
    )
    gained = with_it.blocks_after - with_it.blocks_before
    notebook.claim(
        "moving the balloon's pages frees more blocks than all else that compaction can move",
        holds=gained > max(0, without.blocks_after - without.blocks_before),
    )
    notebook.claim(
        "the device was told of every move, and the balloon is as big as before",
        holds=told == with_it.moved and after.actual_pages == before.actual_pages,
    )
    notebook.conclude(
        f"Compaction moved {with_it.moved:,} of {BALLOON_PAGES:,} pages of the balloon and so made"
        f" {with_it.blocks_after} free blocks of 2 MiB of {with_it.blocks_before}; with the same"
        f" pages held in their places it went from {without.blocks_before} to"
        f" {without.blocks_after}."
    )


EXPERIMENT: Final = Experiment(
    name="compaction",
    question="What does compaction do to a balloon, and to huge pages in the guest?",
    answer="It moves the balloon's scattered pages together, so that the free pages between them"
    " become blocks big enough for huge pages; a balloon whose pages could not be moved would keep"
    " them in pieces.",
    explanation="A huge page needs 2 MiB in one piece, and a single page of the balloon inside"
    " spoils it. With BALLOON_COMPACTION the kernel may move such a page: the driver gives a new"
    " page to the host and takes the old one back. No kernel without that option is at hand; but"
    " the driver moves nothing while it waits for the answer to a message, because it holds its"
    " lock. So the same guest is compacted twice: while the device keeps an answer back, when all"
    " but the balloon can be moved, and afterwards.",
    sources=(
        "Linux mm/Kconfig, BALLOON_COMPACTION; mm/balloon_compaction.c; mm/compaction.c",
        "Linux drivers/virtio/virtio_balloon.c, virtballoon_migratepage",
        "Linux Documentation/admin-guide/sysctl/vm.rst, compact_memory",
    ),
    runs={Kernel.UML: _on_uml},
)
