"""The files behind guest memory: whether they still cover it, and what the host holds for them.

Their owner can cut them short at any moment; touching what is gone would end this process by
SIGBUS.  To look before each turn is no guarantee, but notices everybody who does it by mistake, and
most who do it on purpose.  Memory sealed against shrinking needs no look.
Units: bytes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from typing import Final, NamedTuple

from ballonet.errors import MapError
from ballonet.memory.backing import can_shrink

__all__ = ["FileUse", "GuestFiles", "is_cut_short"]

#: A guest has one file, or one for each of its memory nodes; SET_MEM_TABLE can name eight.  Where
#: somebody shares hundreds, they are looked at in turns: 509 would take a turn's time for nothing.
FILES_PER_LOOK: Final = 8


class FileUse(NamedTuple):
    """One region, as far as its file is concerned."""

    fd: int  #: open as long as the region is mapped
    end: int  #: first byte behind the region
    gpa: int


class GuestFiles:
    """Each file of a memory table once, however many regions lie in it."""

    def __init__(self, uses: Iterable[FileUse] = ()) -> None:
        """Raises: MapError, if a file cannot be looked at."""
        last: dict[tuple[int, int], FileUse] = {}
        for use in uses:
            status = _look_at(use)
            key = status.st_dev, status.st_ino
            if key not in last or use.end > last[key].end:
                last[key] = use
        self._uses = list(last.values())
        self._watched = [use for use in self._uses if _can_shrink(use)]
        self._next = 0

    def find_cut_short(self) -> FileUse | None:
        """A region beyond the end of its file, among the few files looked at this time.

        Raises: MapError, if a file cannot be looked at.
        """
        count = len(self._watched)
        for _ in range(min(FILES_PER_LOOK, count)):
            use = self._watched[self._next]
            self._next = (self._next + 1) % count
            if is_cut_short(use):
                return use
        return None

    def held_bytes(self) -> int:
        """Host memory behind all of them that can be looked at, whether regions cover it or not."""
        blocks = 0
        for use in self._uses:
            with suppress(MapError):
                blocks += _look_at(use).st_blocks
        return blocks * 512


def is_cut_short(use: FileUse) -> bool:
    """The file ends before the region does. Raises: MapError, if it cannot be looked at."""
    return _look_at(use).st_size < use.end


def _look_at(use: FileUse) -> os.stat_result:
    """Raises: MapError; a file system of the front-end's own may fail when it likes."""
    try:
        return os.fstat(use.fd)
    except OSError as error:
        reason = error.strerror or str(error)
        raise MapError("looking at", f"the file of guest memory {use.gpa:#x}", reason) from error


def _can_shrink(use: FileUse) -> bool:
    try:
        return can_shrink(use.fd)
    except OSError:
        return True
