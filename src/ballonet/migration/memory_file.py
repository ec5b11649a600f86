"""Guest memory in a file, as a migration reads and writes it: never through a mapping.

A mapping would fill a hole that is only looked at, and the balloon makes holes at any moment;
`pread` reads one as zeros and leaves it.  `pwrite` puts a whole page into place without clearing it
first.  Memory of hugetlbfs cannot be written so, which is an error and not a silence.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from ballonet.errors import MigrationError, SystemCallError, UsageError
from ballonet.memory.discard import punch_hole
from ballonet.memory.regions import Region
from ballonet.memory.runs import PageRuns
from ballonet.migration.page_bounds import PageBounds
from ballonet.units import BALLOON_PAGE_SHIFT

__all__ = ["MemoryFile"]


class MemoryFile:
    """Regions, each with the descriptor of the file it lies in; owns none of them.

    A `DestinationMemory`, and with `read` what a `StreamSender` reads.
    """

    def __init__(self, files: Sequence[tuple[Region, int]]) -> None:
        ordered = sorted(files, key=lambda one: one[0].gpa)
        self.bounds: Final = PageBounds((region.gpa, region.size) for region, _ in ordered)
        self._fds = [fd for _, fd in ordered]
        # What has to be added to an address to get a place in the file.
        self._to_file = np.array([region.file_offset - region.gpa for region, _ in ordered])

    def read(self, runs: PageRuns, buffer: memoryview) -> None:
        """Fill a buffer with pages, a hole as zeros.

        Raises: MigrationError, if the file is too short; SystemCallError.
        """
        done = 0
        try:
            for fd, offset, length in self._places(runs):
                got = os.preadv(fd, [buffer[done : done + length]], offset)
                if got != length:
                    raise MigrationError(f"guest memory ends after {offset + got} bytes")
                done += length
        except OSError as error:
            raise SystemCallError("reading", "guest memory", error.strerror or "") from error

    def write(self, runs: PageRuns, data: memoryview) -> None:
        """Put pages there. Raises: SystemCallError."""
        if len(data) != runs.total_pages << BALLOON_PAGE_SHIFT:
            raise UsageError(f"{len(data)} bytes for {runs.total_pages} pages")
        done = 0
        try:
            for fd, offset, length in self._places(runs):
                put = 0
                while put < length:  # a file system may take a part, as one that gets full does
                    put += os.pwrite(fd, data[done + put : done + length], offset + put)
                done += length
        except OSError as error:
            raise SystemCallError("writing", "guest memory", error.strerror or "") from error

    def make_holes(self, runs: PageRuns) -> None:
        """Let pages hold no memory. Raises: SystemCallError."""
        try:
            for fd, offset, length in self._places(runs):
                punch_hole(fd, offset, length)
        except OSError as error:
            raise SystemCallError("emptying", "guest memory", error.strerror or "") from error

    def _places(self, runs: PageRuns) -> Iterator[tuple[int, int, int]]:
        """Descriptor, offset and bytes of each run."""
        regions = self.bounds.find(runs)
        if regions is None:
            raise UsageError("pages outside of guest memory")
        offsets = (runs.first_pfns << BALLOON_PAGE_SHIFT) + self._to_file[regions]
        lengths = runs.pages << BALLOON_PAGE_SHIFT
        places = zip(regions.tolist(), offsets.tolist(), lengths.tolist(), strict=True)
        return ((self._fds[region], offset, length) for region, offset, length in places)
