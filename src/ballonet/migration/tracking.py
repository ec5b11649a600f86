"""Which pages a guest writes while its memory is copied.

The guest's process has its own mapping write-protected (`GuestSideTracking`); the kernel lets each
first write through at once and notes it in the page tables.  Another process reads what was noted
and protects it again, in one step for each page (`WriteTracker`), by /proc/PID/pagemap.  So the
guest pays one short fault for each page it writes between two readings, and whoever reads can die
at any moment: once the guest's process closes its side nothing is protected.

What is seen: every write through that one mapping, also the first to a page that never was there.
What is not: `write` to the file, and writes through other mappings of it, such as the device's,
which keeps a log of its own.  A page may be reported that nobody wrote (it was moved out, or given
back after a write); none that was written is left out.  Reading a hole is no write, and a hole
punched into a page that was not written is not reported, though it changes its contents: who needs
to know asks for holes.
Huge pages: those of hugetlb are reported whole; transparent ones are mapped in small pages from
the start, because the kernel forgets about writes when it splits a huge one of a file.
Source: Linux Documentation/admin-guide/mm/pagemap.rst, userfaultfd.rst; needs Linux 6.7.
Units: bytes; pages of 4 KiB, counted from where the memory begins.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ballonet.errors import MigrationError, UsageError
from ballonet.memory.runs import PageRuns
from ballonet.migration.userfault import Feature, Mode, Userfault
from ballonet.units import BALLOON_PAGE_BYTES, BALLOON_PAGE_SHIFT

__all__ = ["GuestSideTracking", "Tracker", "WriteTracker"]

Int64s = NDArray[np.int64]

#: Protected at once, some 5 ms: what a guest with one thread stands still for.  A multiple of any
#: usual huge page.
_PIECE_BYTES: Final = 64 << 20

#: struct pm_scan_arg { u64 size, flags, start, end, walk_end, vec, vec_len, max_pages,
#: category_inverted, category_mask, category_anyof_mask, return_mask; } [include/uapi/linux/fs.h]
_SCAN_STRUCT: Final = struct.Struct("=12Q")
_WALK_END: Final = 4  # which of these the kernel answers in
_PAGEMAP_SCAN: Final = 3 << 30 | _SCAN_STRUCT.size << 16 | ord("f") << 8 | 16
_PROTECT_MATCHING, _CHECK_ASYNC = 1, 2  # PM_SCAN_WP_MATCHING, PM_SCAN_CHECK_WPASYNC
_IS_WATCHED, _IS_WRITTEN = 1, 2  # PAGE_IS_WPALLOWED, PAGE_IS_WRITTEN

#: Runs that one call can report, in 1.5 MiB: a GiB of which every other page was written needs two.
_RUNS_MAX: Final = 1 << 16
_PAGEMAP_ENTRY_BYTES: Final = 8


class Tracker(Protocol):
    """Whoever finds out which pages were changed."""

    @property
    def sees_writes(self) -> bool:
        """A write is seen whatever it writes; else only a change is, and hints lose pages."""
        ...

    def start(self) -> None:
        """From now on. Raises: MigrationError."""
        ...

    def take(self) -> PageRuns:
        """Pages changed since the last call, or since the start. Raises: MigrationError."""
        ...

    def close(self) -> None:
        """Stop; safe to call again."""
        ...


class GuestSideTracking:
    """What the guest's own process has to do; it stays protected until this is closed."""

    def __init__(self, memory: memoryview) -> None:
        buffer = np.frombuffer(memory, np.uint8)
        self.address: Final = int(buffer.ctypes.data)  #: in this process
        self.size: Final = int(buffer.size)
        self._userfault: Userfault | None = None

    def start(self) -> Iterator[None]:
        """Protect all memory, a piece at each step, so that the guest can go on in between.

        Writes are seen everywhere once it is exhausted; only then may `WriteTracker` start.
        Raises: MigrationError; SystemCallError, where it is no memory that can be protected.
        """
        if self._userfault is not None:
            raise UsageError("this memory is being tracked already")
        wanted = Feature.WP_ASYNC | Feature.WP_UNPOPULATED | Feature.WP_HUGETLBFS_SHMEM
        # The kernel resolves every fault itself, so nobody waits, wherever it comes from.
        self._userfault = Userfault.open(wanted, user_mode_only=True)
        self._userfault.register(self.address, self.size, Mode.WRITE_PROTECT)
        for offset in range(0, self.size, _PIECE_BYTES):
            length = min(_PIECE_BYTES, self.size - offset)
            self._userfault.protect(self.address + offset, length)
            yield

    def close(self) -> None:
        """Let the guest write as before; safe to call again."""
        if self._userfault is not None:
            self._userfault.close()
            self._userfault = None


class WriteTracker:
    """Reads from another process what is noted there; a `Tracker`.

    An error ends it: what the kernel had found out in the call that failed is lost.
    """

    sees_writes: Final = True

    def __init__(self, pid: int, address: int, size: int) -> None:
        """Watch what `GuestSideTracking` of process `pid` protects, at its address there."""
        self._target = f"the memory of process {pid}"
        self._path = f"/proc/{pid}/pagemap"
        self._address, self._size = address, size
        self._pagemap = -1
        self._found = np.empty((0, 3), np.uint64)

    def start(self) -> None:
        """Make sure that all of it is watched. Raises: MigrationError."""
        try:
            self._pagemap = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise MigrationError(f"{self._target} cannot be seen: {error.strerror}") from error
        self._found = np.empty((_RUNS_MAX, 3), np.uint64)  # struct page_region: start, end, kinds
        starts, ends = self._scan(0, _IS_WATCHED)
        if (starts.tolist(), ends.tolist()) != ([self._address], [self._address + self._size]):
            self.close()
            raise MigrationError(f"{self._target} is not watched for writes, or not all of it")

    def take(self) -> PageRuns:
        """Pages written since they were last reported, each protected again as it is read.

        Raises: MigrationError, if memory is not watched any more or its process has ended.
        """
        starts, ends = self._scan(_PROTECT_MATCHING | _CHECK_ASYNC, _IS_WRITTEN)
        first = (starts - self._address) >> BALLOON_PAGE_SHIFT
        return PageRuns(first, (ends - starts) >> BALLOON_PAGE_SHIFT)

    def close(self) -> None:
        """Stop; what is protected stays so until the guest's process lets go."""
        if self._pagemap >= 0:
            os.close(self._pagemap)
            self._pagemap = -1

    def _scan(self, flags: int, category: int) -> tuple[Int64s, Int64s]:
        """Borders of runs of one category, as addresses: ascending, never touching."""
        if self._pagemap < 0:
            raise UsageError("this tracker was not started, or has ended")
        try:
            parts = list(self._scan_parts(flags, category))
            self._check_alive()
        except OSError as error:
            self.close()
            raise MigrationError(f"{self._target}: {_explain(error)}") from error
        except MigrationError:
            self.close()
            raise
        borders = np.concatenate(parts).astype(np.int64)
        is_new = np.ones(len(borders), np.bool_)
        np.not_equal(borders[1:, 0], borders[:-1, 1], out=is_new[1:])
        starts = np.flatnonzero(is_new)
        return borders[starts, 0], borders[
            np.append(starts[1:], len(borders))[: starts.size] - 1, 1
        ]

    def _scan_parts(self, flags: int, category: int) -> Iterator[NDArray[np.uint64]]:
        """One call after the other, as many runs as fit into each; starts and ends, ascending."""
        at, end = self._address, self._address + self._size
        vector = int(self._found.ctypes.data)
        count = len(self._found)
        while count == len(self._found) and at < end:
            fixed = (0, vector, count, 0, 0, category, 0, category)
            request = bytearray(_SCAN_STRUCT.pack(_SCAN_STRUCT.size, flags, at, end, *fixed))
            count = fcntl.ioctl(self._pagemap, _PAGEMAP_SCAN, request)
            part = self._found[:count, :2].copy()
            yield part
            # Only a full vector stops a scan.  Where it ended is not told by one that came to its
            # end after the kernel had emptied its own buffer: to go on there would report pages
            # again that come before others (seen with Linux 6.18).
            if count:
                at = max(_SCAN_STRUCT.unpack(request)[_WALK_END], int(part[-1, 1]))

    def _check_alive(self) -> None:
        """A process that has ended has no memory, and so nothing written in it.

        Its pagemap can still be read, but has no entries any more.  Asked after the scan: memory
        that is there now was there then.
        """
        where = self._address // BALLOON_PAGE_BYTES * _PAGEMAP_ENTRY_BYTES
        if not os.pread(self._pagemap, _PAGEMAP_ENTRY_BYTES, where):
            raise MigrationError(f"{self._target} is gone: the process has ended")


def _explain(error: OSError) -> str:
    match error.errno:
        case errno.EPERM:
            return "it is not watched for writes any more"
        case errno.ESRCH:  # told by a kernel that has let go of its memory already
            return "it is gone, the process has ended"
        case errno.ENOTTY:
            return "this kernel cannot tell what was written (PAGEMAP_SCAN, Linux 6.7)"
        case _:
            return error.strerror or str(error)
