"""Memory of which a part is still at the source: accesses to it wait until it is there.

The guest's process has its mapping watched (`GuestSideMissing`) and hands the descriptor to another
process, which fetches what the guest waits for (`MissingMemory`).  It has to be another process: a
thread of Python that waits for a page holds the interpreter's lock, and no other thread of that
process would ever come to fetch it.
As long as the guest's process keeps its own descriptor, nobody reads zeros instead of a page,
whatever happens to the other process: the guest waits, and yet another process can take over.
That one must know for certain what had arrived: a page that is a hole may be one because the guest
has given it back since, and its old contents must not come again.  So a page is noted where both
can read it before the guest can write to it, and until then it is write-protected.
Not here: which page is asked for, and when it is put in its place (postcopy); the stream.
Source: Linux Documentation/admin-guide/mm/userfaultfd.rst.  Units: bytes, balloon pages.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from itertools import starmap
from threading import Lock, Thread
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ballonet.errors import BallonetError, MigrationError, SystemCallError, UsageError
from ballonet.memory.backing import file_page_bytes
from ballonet.memory.discard import punch_hole
from ballonet.memory.held_pages import held_pages
from ballonet.memory.runs import PageRuns
from ballonet.migration.postcopy import FaultAnswer, MissingPages, Run
from ballonet.migration.userfault import Feature, Mode, Userfault
from ballonet.units import BALLOON_PAGE_BYTES, BALLOON_PAGE_SHIFT, bytes_to_pages, pages_to_bytes

__all__ = ["GuestSideMissing", "MissingMemory", "drop_stale_pages", "still_missing"]

Pages = NDArray[np.bool_]


def drop_stale_pages(fd: int, missing: PageRuns) -> None:
    """Make holes of pages whose contents came once and have changed at the source since.

    Only a hole is noticed when somebody looks at it; so this is checked, page by page.
    Raises: MigrationError; SystemCallError.
    """
    try:
        if file_page_bytes(fd) != BALLOON_PAGE_BYTES:
            raise MigrationError("post-copy needs guest memory in pages of 4 KiB")
        for first, pages in missing.pairs():
            punch_hole(fd, pages_to_bytes(first), pages_to_bytes(pages))
        held = held_pages(fd, bytes_to_pages(os.fstat(fd).st_size))
    except OSError as error:
        reason = error.strerror or str(error)
        raise SystemCallError("dropping", "pages of guest memory", reason) from error
    if any(held[first : first + pages].any() for first, pages in missing.pairs()):
        raise MigrationError("pages that are still to come cannot be taken out of guest memory")


def still_missing(fd: int, missing: Pages) -> Pages:
    """Of what is not noted as arrived, what has not; whoever was to note it is gone.

    A page that is there came whole, and was not written since.  Raises: SystemCallError.
    """
    try:
        return missing & ~held_pages(fd, missing.size)
    except OSError as error:
        reason = error.strerror or str(error)
        raise SystemCallError("finding holes in", "guest memory", reason) from error


class GuestSideMissing:
    """What the guest's own process has to do, before the guest runs."""

    def __init__(self, memory: memoryview) -> None:
        """Watch the memory, a mapping of a memfd.

        Raises: MigrationError, where this process may not; SystemCallError.
        """
        buffer = np.frombuffer(memory, np.uint8)
        self.address: Final = int(buffer.ctypes.data)  #: in this process
        self._userfault = _open()
        try:
            self._userfault.register(
                self.address, int(buffer.size), Mode.MISSING | Mode.WRITE_PROTECT
            )
        except SystemCallError:
            self._userfault.close()
            raise

    @staticmethod
    def check() -> None:
        """Whether this process may. Raises: MigrationError, with the way out."""
        _open().close()

    @property
    def fd(self) -> int:
        """For the process that fetches pages."""
        return self._userfault.fd

    def close(self) -> None:
        """Let go, once all is there: what is missing then reads as zeros. Safe to call again."""
        self._userfault.close()


class MissingMemory:
    """Serves the guest's faults, on a thread of its own, and puts in place what arrives.

    Takes pages as the memory of any destination does, by `write` and `make_holes`.
    """

    def __init__(
        self,
        userfault_fd: int,
        address: int,
        pages: MissingPages,
        ask: Callable[[int], None],
        note: Callable[[Run], None] = lambda _: None,
    ) -> None:
        """Take over the descriptor of `GuestSideMissing`, whose memory begins at `address` there.

        `ask` is called with a pfn, on the thread; if it raises, because the channel is broken, the
        page counts as asked for, and `ask_again` is to be called when there is another channel.
        `note` is told what has arrived before the guest can write to it.
        """
        self._userfault = Userfault(userfault_fd)
        self._address, self._pages, self._ask, self._note = address, pages, ask, note
        self._lock = Lock()  # over `_pages`, and over putting pages in their places
        self._failure: BallonetError | None = None
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = Thread(target=self._run, name="ballonet-missing", daemon=True)

    def start(self) -> None:
        """Serve faults from now on. Raises: SystemCallError, if the guest is gone."""
        # Of whoever was here before, a page may be left that he has not noted.
        self._userfault.unprotect(self._address, pages_to_bytes(self._pages.all_pages))
        self._thread.start()

    @property
    def left_pages(self) -> int:
        """Still to come."""
        with self._lock:
            return self._pages.left_pages

    def write(self, runs: PageRuns, data: memoryview) -> None:
        """Pages have arrived, one run after the other; those that are there are left as they are.

        Raises: GuestMemoryError; SystemCallError, if the guest is gone; MigrationError, if somebody
        wrote to a page before it was there, whose contents are lost.
        """
        if len(data) != pages_to_bytes(runs.total_pages):
            raise UsageError(f"{len(data)} bytes for {runs.total_pages} pages")
        with self._lock:
            self._check()
            start = 0
            for run in starmap(Run, runs.pairs()):
                for part in self._pages.arrived(run):
                    at = start + pages_to_bytes(part.first_pfn - run.first_pfn)
                    self._copy(part.first_pfn, data[at : at + pages_to_bytes(part.pages)])
                start += pages_to_bytes(run.pages)

    def make_holes(self, runs: PageRuns) -> None:
        """Pages turned out to be holes at the source, and stay holes unless somebody waits.

        Raises: GuestMemoryError; SystemCallError, if the guest is gone.
        """
        with self._lock:
            self._check()
            for run in starmap(Run, runs.pairs()):
                for first, pages in self._pages.are_holes(run):
                    for pfn in range(first, first + pages):
                        self._zero(pfn)
                self._note(run)

    def received(self) -> PageRuns:
        """What has arrived, for the source to go on after a channel broke."""
        with self._lock:
            return self._pages.received()

    def ask_again(self) -> None:
        """Ask for everything that the guest waits for, over a new channel."""
        with self._lock:
            asked = self._pages.asked()
        for first, pages in asked.pairs():
            for pfn in range(first, first + pages):
                self._ask(pfn)

    def finish(self) -> None:
        """Everything is there: the guest's memory is like any other from now on.

        Raises: MigrationError, if something is not; SystemCallError, if the guest is gone.
        """
        with self._lock:
            self._check()
            if self._pages.left_pages:
                raise MigrationError(f"{self._pages.left_pages} pages have not arrived")
            size = pages_to_bytes(self._pages.all_pages)
            self._userfault.unregister(self._address, size)
        self.close()

    def close(self) -> None:
        """Serve no more faults; whoever waits goes on waiting. Safe to call again."""
        if self._stop < 0:
            return
        os.eventfd_write(self._stop, 1)
        if self._thread.is_alive():
            self._thread.join()
        os.close(self._stop)
        self._stop = -1
        self._userfault.close()

    def _run(self) -> None:
        try:
            while self._userfault.wait(self._stop):
                for address in self._userfault.read_faults():
                    self._serve((address - self._address) >> BALLOON_PAGE_SHIFT)
        except BallonetError as error:
            self._failure = error  # told with the next pages that arrive

    def _serve(self, pfn: int) -> None:
        with self._lock:
            answer = self._pages.fault(pfn)
            if answer is FaultAnswer.ZERO:
                self._zero(pfn)
        if answer is FaultAnswer.ASK:
            with suppress(BallonetError, OSError):
                self._ask(pfn)

    def _copy(self, pfn: int, content: memoryview) -> None:
        address = self._address + pages_to_bytes(pfn)
        try:
            self._userfault.copy(address, content, protected=True)
            self._note(Run(pfn, bytes_to_pages(len(content))))
            self._userfault.unprotect(address, len(content))
        except SystemCallError as error:
            if isinstance(error.__cause__, FileExistsError):
                raise MigrationError(
                    f"guest memory at {pages_to_bytes(pfn):#x} or right after was written before"
                    " its contents had arrived"
                ) from error
            raise

    def _zero(self, pfn: int) -> None:
        """Fill a hole somebody waits at; if it has been filled meanwhile, let him look again."""
        address = self._address + pages_to_bytes(pfn)
        try:
            self._userfault.zero(address, BALLOON_PAGE_BYTES)
        except SystemCallError as error:
            if not isinstance(error.__cause__, FileExistsError):
                raise
            self._userfault.wake(address, BALLOON_PAGE_BYTES)

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure


def _open() -> Userfault:
    """Raises: MigrationError."""
    features = Feature.MISSING_SHMEM | Feature.WP_HUGETLBFS_SHMEM
    return Userfault.open(features, user_mode_only=False)
