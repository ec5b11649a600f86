"""What a guest writes when it frees the pages that it hinted."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np

from ballonet.device.balloon import BalloonSettings
from ballonet.guests.ballooned import BalloonedGuest
from ballonet.guests.linux import LinuxGuestSettings
from ballonet.guests.uml_memory import uml_memory
from ballonet.lab.experiment import Experiment, Kernel
from ballonet.lab.hint_watch import HintedBlock, HintWatch
from ballonet.lab.memory_copy import MemoryCopy
from ballonet.lab.notebook import Notebook
from ballonet.lab.waiting import becomes
from ballonet.units import format_bytes, pages_to_bytes
from ballonet.virtio.features import RING_FEATURES, Feature

__all__ = ["EXPERIMENT"]

_MEMORY_BYTES: Final = 512 << 20
_FEATURES: Final = Feature.MUST_TELL_HOST | Feature.FREE_PAGE_HINT
#: For the guest that only stops, at the least.
_LOOK_S: Final = 1.0


class _Changes(NamedTuple):
    """Pages whose contents have changed."""

    in_blocks: int  #: of those that the guest had hinted
    elsewhere: int
    seconds: float  #: for which was looked

    @property
    def pages(self) -> int:
        return self.in_blocks + self.elsewhere


def _on_uml(notebook: Notebook) -> None:
    settings = BalloonSettings(RING_FEATURES | _FEATURES)
    with (
        BalloonedGuest(LinuxGuestSettings(_MEMORY_BYTES), settings) as machine,
        uml_memory(machine.guest.pid) as memory,
        MemoryCopy(memory) as copy,
        HintWatch(machine.device) as watch,
    ):
        notebook.runs_on(machine.guest.release, "User-Mode Linux")
        freed = _hinted(notebook, watch)
        notebook.step("its memory is copied, DONE is shown, memory and copy are compared")
        done = _changes_after(watch.finish, copy, freed, at_least_pages=len(freed))
        _see(notebook, "DONE", done)
        kept = _hinted(notebook, watch)
        notebook.step("its memory is copied, STOP is shown, memory and copy are compared")
        stop = _changes_after(watch.stop, copy, kept, at_least_s=max(_LOOK_S, done.seconds))
        _see(notebook, "STOP", stop)
    notebook.claim(
        "as many pages change as blocks are freed, or more", holds=done.pages >= len(freed) > 0
    )
    notebook.claim(
        "after STOP less than a quarter as many change, in no less time",
        holds=stop.pages * 4 < done.pages and stop.seconds >= done.seconds,
    )
    notebook.conclude(
        f"After DONE {done.pages} pages had changed, for {len(freed)} blocks that were freed; after"
        f" STOP {stop.pages} within {stop.seconds:.1f} s. To free the blocks after each pass would"
        f" have made {format_bytes(pages_to_bytes(done.pages))} dirty each time, to be sent again."
    )


def _hinted(notebook: Notebook, watch: HintWatch) -> tuple[HintedBlock, ...]:
    notebook.step("the guest is asked for hints, and keeps what it names")
    blocks = watch.blocks(watch.ask())
    notebook.see("hinted", sum(block.pages for block in blocks), "pages")
    notebook.see("blocks", len(blocks))
    return blocks


def _changes_after(
    act: Callable[[], None],
    copy: MemoryCopy,
    blocks: tuple[HintedBlock, ...],
    *,
    at_least_pages: int = 0,
    at_least_s: float = 0.0,
) -> _Changes:
    """What has changed, once so many pages have and so long has passed."""
    copy.take()
    begun_s = time.monotonic()
    act()
    becomes(lambda: int(np.count_nonzero(copy.changed())) >= at_least_pages)
    becomes(lambda: time.monotonic() >= begun_s + at_least_s)
    seconds = time.monotonic() - begun_s
    changed = copy.changed()
    in_blocks = sum(
        int(np.count_nonzero(changed[block.first_pfn : block.first_pfn + block.pages]))
        for block in blocks
    )
    return _Changes(in_blocks, int(np.count_nonzero(changed)) - in_blocks, seconds)


def _see(notebook: Notebook, word: str, changes: _Changes) -> None:
    notebook.see(f"changed after {word}, in the blocks themselves", changes.in_blocks, "pages")
    notebook.see(f"changed after {word}, elsewhere", changes.elsewhere, "pages")
    notebook.see("looked for", changes.seconds, "s")


EXPERIMENT: Final = Experiment(
    name="hints-freed-at-done",
    question="Why does the guest free the pages that it hinted only when it is told DONE?",
    answer="Because freeing writes to memory, and what is written while a guest moves has to be"
    " sent again: the pages are kept until that costs nothing any more.",
    explanation="A block that goes back to the free lists has its `struct page`s written: flags,"
    " counter, size of the block, links of the list. Those of 4 MiB fill 64 KiB, 16 pages, of"
    " which the first gets other contents; the others are written with what they held, which a"
    " comparison does not show and a log of writes does. A guest that frees its blocks after each"
    " pass, to take them again for the next, writes this every time, and a kernel that clears what"
    " it frees (init_on_free) or fills it with poison writes all of the memory. STOP between the"
    " passes costs nothing: the guest keeps its list as it is.",
    sources=(
        "Virtio specification 1.3, section 5.5.6.5 (Free Page Hinting)",
        "Linux drivers/virtio/virtio_balloon.c, report_free_page_func, return_free_pages_to_mm",
        "Linux mm/page_alloc.c, free_pages_prepare, __free_one_page",
        "Linux commit 86a559787e6f (VIRTIO_BALLOON_F_FREE_PAGE_HINT)",
    ),
    runs={Kernel.UML: _on_uml},
)
