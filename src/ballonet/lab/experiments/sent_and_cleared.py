"""Between sending a page and clearing its mark in the log."""

from __future__ import annotations

import mmap
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from ballonet.lab.experiment import Experiment, Kernel
from ballonet.lab.notebook import Notebook
from ballonet.migration.tracking import GuestSideTracking, WriteTracker
from ballonet.units import BALLOON_PAGE_BYTES

__all__ = ["EXPERIMENT"]

_CLEAR, _SEND = "clear", "send"
_ORDERS: Final = ((_CLEAR, _SEND), (_SEND, _CLEAR))
#: When the guest writes once more, beside the two steps.
_MOMENTS: Final = ("before both", "in between", "after both")
_PAGES: Final = 16
_PAGE: Final = 3
_FIRST, _AGAIN = b"first", b"again"


class _Page:
    """One page of memory that is watched, and its copy at the destination."""

    def __init__(self, memory: mmap.mmap, tracker: WriteTracker) -> None:
        self._memory, self._tracker = memory, tracker
        self._at = _PAGE * BALLOON_PAGE_BYTES
        self.copy = b""

    def write(self, text: bytes) -> None:
        self._memory[self._at : self._at + len(text)] = text

    def send(self) -> None:
        self.copy = self._memory[self._at : self._at + BALLOON_PAGE_BYTES]

    def clear(self) -> bool:
        """Read the log, and have it begin anew; whether the page was in it."""
        return any(first <= _PAGE < first + pages for first, pages in self._tracker.take().pairs())

    @property
    def is_lost(self) -> bool:
        """The copy is not what the page holds."""
        return self.copy != self._memory[self._at : self._at + BALLOON_PAGE_BYTES]


def _on_host(notebook: Notebook) -> None:
    notebook.runs_on(platform.release(), "this machine's own, memory of a process")
    rows = []
    lost: set[tuple[str, str]] = set()
    for order in _ORDERS:
        first, second = order
        notebook.step(
            f"a page that was written: {first}, then {second}; the guest writes meanwhile"
        )
        for moment in _MOMENTS:
            in_log, is_lost = _play(order, moment)
            rows.append((f"{first}, {second}", moment, in_log, is_lost))
            if is_lost:
                lost.add((first, moment))
    notebook.table(
        "what became of what was written", ("order", "written", "in the next log", "lost"), rows
    )
    notebook.claim(
        "cleared first: nothing is lost, whenever it is written",
        holds=not any(first == _CLEAR for first, _ in lost),
    )
    notebook.claim(
        "sent first: what is written in between is lost, and in no log",
        holds=(_SEND, "in between") in lost,
    )
    notebook.claim("sent first: at no other moment", holds=len(lost) == 1)
    notebook.conclude(
        f"{len(lost)} of {len(rows)} ways lost what was written: the page was sent, written again,"
        " and then its mark was cleared. With the mark cleared first the same write was in the"
        " next log, and was sent."
    )


def _play(order: tuple[str, str], moment: str) -> tuple[bool, bool]:
    """Whether the next log has the page, and whether it is lost after that log was followed."""
    with _watched_page() as page:
        steps: dict[str, Callable[[], object]] = {_CLEAR: page.clear, _SEND: page.send}
        page.write(_FIRST)
        for number, step in enumerate(order):
            if moment == _MOMENTS[number]:
                page.write(_AGAIN)
            steps[step]()
        if moment == _MOMENTS[-1]:
            page.write(_AGAIN)
        in_log = page.clear()
        if in_log:
            page.send()
        return in_log, page.is_lost


@contextmanager
def _watched_page() -> Iterator[_Page]:
    """Memory of ours whose writes the kernel notes. Raises: MigrationError, SystemCallError."""
    memory = mmap.mmap(-1, _PAGES * BALLOON_PAGE_BYTES)
    view = memoryview(memory)
    tracking = GuestSideTracking(view)
    try:
        for _ in tracking.start():
            pass
        tracker = WriteTracker(os.getpid(), tracking.address, tracking.size)
        tracker.start()
        try:
            yield _Page(memory, tracker)
        finally:
            tracker.close()
    finally:
        tracking.close()
        del tracking
        view.release()
        memory.close()


EXPERIMENT: Final = Experiment(
    name="sent-and-cleared",
    question="A page is sent and its mark in the dirty log is cleared: does the order matter?",
    answer="Yes: the mark has to be cleared before the page is read to be sent, for what is written"
    " between sending and clearing would be forgotten.",
    explanation="To clear a mark says: from now on a write is noted anew. If the page is read after"
    " that, a write comes either before the reading, and is sent with it, or later, and is in the"
    " next log; it may be both, which costs a page sent twice. The other way round there is a gap:"
    " the copy is old already, and the mark that said so is wiped out. QEMU keeps this order:"
    " migration_bitmap_clear_dirty clears KVM's log for a chunk of memory, and its own bit, before"
    " the page is saved. Ours reads the kernel's marks and clears them in one step for each page"
    " (PAGEMAP_SCAN), which is what is played here.",
    sources=(
        "QEMU migration/ram.c, migration_bitmap_clear_dirty, ram_save_host_page",
        "Linux Documentation/virt/kvm/api.rst, KVM_CLEAR_DIRTY_LOG",
        "Linux Documentation/admin-guide/mm/pagemap.rst, PAGEMAP_SCAN, PM_SCAN_WP_MATCHING",
    ),
    runs={Kernel.HOST: _on_host},
)
