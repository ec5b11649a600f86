"""A memory snapshot of a User-Mode Linux that runs: its memory at one moment, exact, in an image.

Order.  Copy all memory that is there; then compare and copy what differs, again and again while
that becomes less; stop the guest; compare and copy once more; let it go on; then the checksums.
What the guest wrote while it ran is found by the last comparison at the latest.
Pages in the balloon are holes of the guest's memory, so they are holes of the image: to make it
small, put memory into the balloon before.  Free page hints are no way to: nobody here sees writes,
so a page that was hinted, taken back and filled as before would be lost (migration/compare.py).
It is memory and nothing else.  A guest in User-Mode Linux is also processes, descriptors and
timers, which lie outside: it cannot be restored.
Limits: what the guest wrote last is written to the image while it stands still, which a slow disk
makes longer.  Its device does not stand still; what that writes then is in the image or not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ballonet.guests.stopping import stopped
from ballonet.guests.uml_memory import uml_memory
from ballonet.memory.runs import PageRuns, merge_pfns
from ballonet.migration.compare import PIECE_PAGES, CompareTracker, FilePages, pieces_with
from ballonet.migration.image import plan_image
from ballonet.migration.image_file import ImageWriter
from ballonet.units import BALLOON_PAGE_BYTES, pages_to_bytes

__all__ = ["KIND", "Pass", "Snapshot", "Step", "take_snapshot"]

Bools = NDArray[np.bool_]

KIND: Final = "user-mode-linux"
_PASSES_MAX: Final = 6
#: A pass that finds more than this part of what the one before found is the last before the stop:
#: the guest writes as fast as we copy.
_SHRINKS: Final = 0.7
#: So few are copied in no time: 4 MiB.
_FEW_PAGES: Final = 1024
_PAGE_WORDS: Final = BALLOON_PAGE_BYTES // 8


class Step(Enum):
    """What goes on."""

    COPY = "copying"  #: the first pass
    COMPARE = "comparing"  #: a further one, the guest runs
    LAST = "comparing, the guest stopped"
    CHECK = "computing checksums"  #: the guest runs again


@dataclass(frozen=True, slots=True)
class Pass:
    """One time over all memory."""

    changed_pages: int  #: differing from the copy
    seconds: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """How it went. `still_seconds` and `last_seconds` make up most of `stopped_seconds`."""

    address_bytes: int  #: which the image covers, with the hole below the guest's memory
    held_pages: int  #: of the guest with the host, when the copy began
    pages: int  #: in the image, neither holes nor zeros
    image_bytes: int  #: which the image takes on the disk
    passes: tuple[Pass, ...]  #: the last one with the guest stopped
    stopped_seconds: float
    still_seconds: float  #: until nothing of the guest ran any more
    seconds: float


def _no_report(_: Step, __: int, ___: int) -> None:
    """For callers who only want the result."""


def take_snapshot(
    pid: int, path: Path, report: Callable[[Step, int, int], None] = _no_report
) -> Snapshot:
    """Write the memory of the guest whose kernel is this process into an image.

    `report` is given the step, pages done and pages in all; in the step LAST the guest stands
    still, also when all are done and copied.
    Raises: GuestError, SystemCallError; the guest goes on, and there is no image then.
    """
    begun_s = time.monotonic()
    with uml_memory(pid) as memory:
        layout = plan_image(KIND, f"process {pid}", [(0, pages_to_bytes(memory.pages))])
        with ImageWriter(path, layout) as image:
            copy = _Copy(memory, image, report)
            passes = copy.while_running()
            stop_s = time.monotonic()
            with stopped(pid):
                still_s = time.monotonic()
                passes.append(copy.again(Step.LAST))
            resumed_s = time.monotonic()
            image.finish(lambda done: report(Step.CHECK, done, memory.pages))
            pages = image.pages
    return Snapshot(
        address_bytes=pages_to_bytes(memory.pages),
        held_pages=passes[0].changed_pages,
        pages=pages,
        image_bytes=path.stat().st_blocks * 512,
        passes=tuple(passes),
        stopped_seconds=resumed_s - stop_s,
        still_seconds=still_s - stop_s,
        seconds=time.monotonic() - begun_s,
    )


class _Copy:
    """Memory and its copy in an image."""

    def __init__(
        self, memory: FilePages, image: ImageWriter, report: Callable[[Step, int, int], None]
    ) -> None:
        self._memory, self._image, self._report = memory, image, report
        self._tracker = CompareTracker(memory, image.copy, image.there)
        self._buffer = np.empty(PIECE_PAGES * _PAGE_WORDS, np.uint64)

    def while_running(self) -> list[Pass]:
        """The first pass, and further ones as long as they help."""
        begun_s = time.monotonic()
        passes = [self._take(Step.COPY, self._memory.held(), begun_s)]
        while len(passes) < _PASSES_MAX:
            passes.append(self.again(Step.COMPARE))
            changed, before = passes[-1].changed_pages, passes[-2].changed_pages
            if changed <= _FEW_PAGES or changed > before * _SHRINKS:
                break
        return passes

    def again(self, step: Step) -> Pass:
        """Compare everything, and copy what differs."""
        begun_s, pages = time.monotonic(), self._memory.pages
        changed = self._tracker.scan(lambda done: self._report(step, done, pages))
        done = self._take(step, changed, begun_s)
        self._report(step, pages, pages)
        return done

    def _take(self, step: Step, changed: Bools, begun_s: float) -> Pass:
        """Copy pages; those full of zeros become holes."""
        for piece in pieces_with(changed):
            self._take_piece(piece, changed[piece])
            if step is Step.COPY:
                self._report(step, piece.stop, self._memory.pages)
        return Pass(int(np.count_nonzero(changed)), time.monotonic() - begun_s)

    def _take_piece(self, piece: slice, changed: Bools) -> None:
        which = np.flatnonzero(changed)
        first, pages = int(which[0]), int(which[-1] - which[0]) + 1
        words = self._buffer[: pages * _PAGE_WORDS]
        self._memory.read(piece.start + first, words)
        wanted = changed[first : first + pages]
        is_filled = words.reshape(-1, _PAGE_WORDS).any(axis=1)
        view, gpa = words.data.cast("B"), pages_to_bytes(piece.start + first)
        for start, length in _ranges(wanted & is_filled):
            self._image.write(gpa + start, view[start : start + length])
        for start, length in _ranges(wanted & ~is_filled):
            self._image.leave_out(gpa + start, length)


def _ranges(wanted: Bools) -> list[tuple[int, int]]:
    """Runs of pages as offset and length in bytes."""
    runs: PageRuns = merge_pfns(np.flatnonzero(wanted).astype(np.uint64))
    starts, lengths = runs.first_pfns * BALLOON_PAGE_BYTES, runs.pages * BALLOON_PAGE_BYTES
    return list(zip(starts.tolist(), lengths.tolist(), strict=True))
