"""What a hint round names: which blocks, how big, in which order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ballonet.device.balloon import BalloonSettings
from ballonet.guests.ballooned import BalloonedGuest
from ballonet.guests.linux import LinuxGuestSettings
from ballonet.lab.buddyinfo import free_blocks
from ballonet.lab.experiment import Experiment, Kernel
from ballonet.lab.hint_watch import HintedBlock, HintWatch
from ballonet.lab.notebook import Notebook
from ballonet.lab.waiting import wait_until
from ballonet.units import format_bytes, pages_to_bytes
from ballonet.virtio.features import RING_FEATURES, Feature

__all__ = ["EXPERIMENT", "in_order"]

_MEMORY_BYTES: Final = 256 << 20
_FEATURES: Final = Feature.MUST_TELL_HOST | Feature.FREE_PAGE_HINT
#: MAX_ORDER - 1 as Linux had it until 6.3, MAX_PAGE_ORDER since 6.8: 2**10 pages.
_BIGGEST: Final = 10
_BLOCK_PAGES: Final = 1 << _BIGGEST
#: A block more or less may have been put together, or split, by the command that looks.
_LEEWAY: Final = 2


def _on_uml(notebook: Notebook) -> None:
    settings = BalloonSettings(RING_FEATURES | _FEATURES)
    with (
        BalloonedGuest(LinuxGuestSettings(_MEMORY_BYTES), settings) as machine,
        HintWatch(machine.device) as watch,
    ):
        notebook.runs_on(machine.guest.release, "User-Mode Linux")

        def look() -> list[int]:
            return free_blocks(machine.guest.check("cat /proc/buddyinfo"))

        before = look()
        notebook.step("a round begins, and the guest names what is free")
        first = watch.blocks(watch.ask())
        held = look()
        notebook.step("DONE is shown: the guest frees the blocks, the one it named first as last")
        watch.finish()
        wait_until(
            lambda: look()[_BIGGEST] >= before[_BIGGEST] - _LEEWAY,
            "the guest does not free its blocks",
        )
        notebook.step("another round begins")
        second = watch.blocks(watch.ask())
    notebook.see("hints", len(first))
    for name, blocks in (("first", first), ("second", second)):
        notebook.table(f"order of the {name} round", ("from", "to", "blocks"), in_order(blocks))
    sizes = enumerate(zip(before, held, strict=True))
    rows = [(f"{1 << order} pages", *counts) for order, counts in sizes]
    notebook.table("free blocks by /proc/buddyinfo", ("size", "before", "hints held"), rows)
    _claim(notebook, first, before=before[_BIGGEST], left=held[_BIGGEST])
    notebook.claim(
        "the next round names the block first that was freed last, and all of them in this order",
        holds=len(first) > 2 * _LEEWAY and _is_same_order(first, second),
    )
    named = sum(block.pages for block in first)
    all_pages = sum(count << order for order, count in enumerate(before))
    notebook.conclude(
        f"{len(first)} hints of 4.0 MiB each named {format_bytes(pages_to_bytes(named))} of"
        f" {format_bytes(pages_to_bytes(all_pages))} that were free: what lay in smaller blocks was"
        f" not named. Freed in the reverse order, the blocks were named in the same again."
    )


def in_order(blocks: Sequence[HintedBlock]) -> list[tuple[str, str, int]]:
    """Blocks of which each follows the one before in memory: first and last page, how many."""
    found: list[list[HintedBlock]] = []
    for block in blocks:
        if found and sum(found[-1][-1]) == block.first_pfn:
            found[-1].append(block)
        else:
            found.append([block])
    return [(f"{some[0].first_pfn:#x}", f"{sum(some[-1]) - 1:#x}", len(some)) for some in found]


def _is_same_order(first: Sequence[HintedBlock], second: Sequence[HintedBlock]) -> bool:
    """What both name, all but what a command has used since, comes in the same order."""
    common = [block for block in first if block in set(second)]
    again = [block for block in second if block in set(first)]
    return common == again and len(first) - len(common) <= _LEEWAY


def _claim(notebook: Notebook, first: tuple[HintedBlock, ...], *, before: int, left: int) -> None:
    notebook.claim(
        f"every hint names {_BLOCK_PAGES} pages, at a border of so many",
        holds=len(first) > 0
        and all(one.pages == _BLOCK_PAGES and not one.first_pfn % _BLOCK_PAGES for one in first),
    )
    notebook.claim(
        "there are as many hints as there were free blocks of this size, without those left",
        holds=abs(before - left - len(first)) <= _LEEWAY,
    )
    notebook.claim("no block is named twice in a round", holds=len(set(first)) == len(first))


EXPERIMENT: Final = Experiment(
    name="hint-order",
    question="What does a hint round name, and in which order?",
    answer="Free blocks of the biggest size that the kernel's allocator keeps, 4 MiB on x86, in the"
    " order of its free list, where a block that was freed last comes first.",
    explanation="The driver asks the allocator for one block of the highest order after the other,"
    " in the usual way, until there is none: so it gets them in the order of the free lists, where"
    " a block that is freed goes to the front. What lies in smaller blocks is not named, as the"
    " number of hints would grow for little memory. When the driver frees its blocks it begins"
    " with the one it took last, so the next round meets them in the same order as before. Each"
    " hint is one descriptor that the device could write to: its address and length are the block.",
    sources=(
        "Virtio specification 1.3, section 5.5.6.5 (Free Page Hinting)",
        "Linux drivers/virtio/virtio_balloon.c, get_free_page_and_send, return_free_pages_to_mm",
        "Linux mm/page_alloc.c, __free_one_page, get_page_from_free_area",
        "Linux commit 86a559787e6f (only blocks of MAX_ORDER - 1 are reported)",
    ),
    runs={Kernel.UML: _on_uml},
)
