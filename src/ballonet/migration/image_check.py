"""Whether an image is whole, and how it differs from a guest's memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from zlib import crc32

import numpy as np

from ballonet.errors import WireError
from ballonet.memory.runs import PageRuns, merge_pfns
from ballonet.migration.compare import CompareTracker, FilePages, no_report, pieces_with
from ballonet.migration.image import BLOCK_PAGES
from ballonet.migration.image_file import ImageReader
from ballonet.units import pages_to_bytes

__all__ = ["ImageCheck", "check_image", "diff_image"]

#: Blocks whose pages and checksums are looked at together, so that a file that claims to be huge
#: costs no memory.
_GROUP_BLOCKS: Final = 1024


@dataclass(frozen=True, slots=True)
class ImageCheck:
    """What a look at all of an image found."""

    pages: int  #: that are there
    damaged: tuple[int, ...]  #: blocks whose checksum is another, each of 256 pages by their index
    tables_damaged: bool  #: bitmap, checksums or the number of pages: nothing is known of the rest

    @property
    def is_whole(self) -> bool:
        """Nothing is damaged."""
        return not (self.damaged or self.tables_damaged)


def check_image(reader: ImageReader, report: Callable[[int], None] = no_report) -> ImageCheck:
    """Compute all checksums anew. `report` is given the pages looked at.

    Raises: SystemCallError, if the file cannot be read, or is cut short meanwhile.
    """
    crc = 0
    for piece in reader.tables():
        crc = crc32(piece, crc)
    if crc != reader.end.tables_crc:
        return ImageCheck(reader.end.pages, (), tables_damaged=True)
    pages, damaged = 0, []
    buffer = np.empty(pages_to_bytes(BLOCK_PAGES) // 8, np.uint64)
    for group in range(0, reader.layout.blocks, _GROUP_BLOCKS):
        there, expected = reader.there(group, _GROUP_BLOCKS), reader.checksums(group, _GROUP_BLOCKS)
        pages += int(np.count_nonzero(there))
        found = np.zeros_like(expected)
        for block in pieces_with(there):
            words = buffer[: pages_to_bytes(block.stop - block.start) // 8]
            reader.pages.read(group * BLOCK_PAGES + block.start, words)
            found[block.start // BLOCK_PAGES] = crc32(words.data)
        damaged += (group + np.flatnonzero(found != expected)).tolist()
        report(min((group + _GROUP_BLOCKS) * BLOCK_PAGES, reader.layout.pages))
    return ImageCheck(pages, tuple(damaged), tables_damaged=pages != reader.end.pages)


def diff_image(
    reader: ImageReader, memory: FilePages, report: Callable[[int], None] = no_report
) -> PageRuns:
    """Pages whose contents differ from a guest's memory, by their index; a hole is zeros.

    Raises: SystemCallError; WireError, if the image is of memory of another size.
    """
    if memory.pages != reader.layout.pages:
        got = f"{pages_to_bytes(reader.layout.pages)} bytes"
        rule = f"the guest has {pages_to_bytes(memory.pages)} bytes"
        raise WireError("guest memory", got, rule, "the image")
    there = reader.there(0, reader.layout.blocks)
    changed = CompareTracker(memory, reader.pages, lambda: there).scan(report)
    return merge_pfns(np.flatnonzero(changed).astype(np.uint64))
