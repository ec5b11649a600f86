"""What MADV_DONTNEED frees, what it does not, and what does, by kind of memory."""

from __future__ import annotations

import errno
import mmap
import os
import platform
from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np

from ballonet.errors import SystemCallError
from ballonet.lab.experiment import Experiment, Kernel
from ballonet.lab.memory_kinds import HUGE_PAGE_BYTES, KINDS, SIZE_BYTES, Kind, Piece, made
from ballonet.lab.notebook import Notebook
from ballonet.memory.discard import punch_hole
from ballonet.memory.mapping import MappedRegion
from ballonet.memory.regions import Region
from ballonet.memory.runs import Ranges
from ballonet.units import format_bytes

__all__ = ["EXPERIMENT"]

#: For our own table all but this part is given: what lies in between has to stay.
_KEPT: Final = range(HUGE_PAGE_BYTES, 2 * HUGE_PAGE_BYTES)
_NO_FILE: Final = "it has no file"


class Outcome(NamedTuple):
    """One way tried on one kind."""

    freed_bytes: int
    mapped_bytes: int  #: by this process afterwards
    reads: str  #: what a reader finds then
    refusal: str = ""

    @property
    def frees_all(self) -> bool:
        """All of it went back to the host, and a reader finds zeros."""
        return self.freed_bytes == SIZE_BYTES and self.reads == "zeros"

    @property
    def frees_nothing(self) -> bool:
        """The host still has all, and so has a reader."""
        return self.freed_bytes == 0 and self.reads == "what was written"


def _dontneed(piece: Piece) -> None:
    piece.mapping.madvise(mmap.MADV_DONTNEED)


def _remove(piece: Piece) -> None:
    piece.mapping.madvise(mmap.MADV_REMOVE)


def _punch(piece: Piece) -> None:
    if piece.fd is None:
        raise OSError(errno.EBADF, _NO_FILE)
    punch_hole(piece.fd, 0, SIZE_BYTES)


_WAYS: Final[dict[str, Callable[[Piece], None]]] = {
    "DONTNEED": _dontneed,
    "REMOVE": _remove,
    "PUNCH_HOLE": _punch,
}


def _on_host(notebook: Notebook) -> None:
    notebook.runs_on(os.uname().release, f"this machine, {platform.machine()}")
    tried: dict[tuple[str, str], Outcome] = {}
    by_table: dict[str, tuple[int, bool]] = {}
    for kind in KINDS:
        notebook.step(f"{format_bytes(SIZE_BYTES)} of {kind.name} are written, and freed each way")
        try:
            tried |= {(kind.name, way): _try(kind, free) for way, free in _WAYS.items()}
            by_table[kind.name] = _free_by_table(kind)
        except SystemCallError as error:
            notebook.see("left out", str(error))
    _write_down(notebook, tried, by_table)
    _claim(notebook, tried, by_table)
    kept = [name for name, way in tried if way == "DONTNEED" and tried[name, way].frees_nothing]
    notebook.conclude(
        f"MADV_DONTNEED freed 0 B of {format_bytes(SIZE_BYTES)} of {', '.join(kept)}; MADV_REMOVE"
        f" and a hole in the file freed all of it."
    )


def _try(kind: Kind, free: Callable[[Piece], None]) -> Outcome:
    """Free all of a new piece, and look at it. Raises: SystemCallError, if there is none."""
    with made(kind) as piece:
        before = piece.held_bytes()
        try:
            free(piece)
        except OSError as error:
            refusal = _NO_FILE if piece.fd is None and error.strerror == _NO_FILE else ""
            return Outcome(0, SIZE_BYTES, "", refusal or errno.errorcode[error.errno or 0])
        freed, mapped = before - piece.held_bytes(), piece.mapped_bytes()
        return Outcome(freed, mapped, _read(piece))


def _read(piece: Piece) -> str:
    offsets = range(0, SIZE_BYTES, mmap.PAGESIZE)
    if all(map(piece.is_zero, offsets)):
        return "zeros"
    return "what was written" if all(map(piece.is_as_written, offsets)) else "some of both"


def _free_by_table(kind: Kind) -> tuple[int, bool]:
    """Free a piece but for its middle, as a device of ours does.

    Returns bytes freed, and whether the middle is as it was.
    """
    with made(kind) as piece:
        before = piece.held_bytes()
        region = Region(0, SIZE_BYTES, 0, 0, page_bytes=kind.page_bytes)
        mapped = MappedRegion(region, piece.mapping, kind.table_row, fd=piece.fd)
        offsets = np.array([0, _KEPT.stop])
        mapped.discard(Ranges(0, offsets, np.array([_KEPT.start, SIZE_BYTES - _KEPT.stop])))
        mapped.view.release()
        freed = before - piece.held_bytes()
        return freed, all(map(piece.is_as_written, _KEPT[:: mmap.PAGESIZE]))


def _write_down(
    notebook: Notebook,
    tried: dict[tuple[str, str], Outcome],
    by_table: dict[str, tuple[int, bool]],
) -> None:
    notebook.table(
        f"of {format_bytes(SIZE_BYTES)}",
        ("memory", "way", "freed", "still mapped here", "the next reader finds"),
        [
            (name, way, one.refusal, "", "")
            if one.refusal
            else (
                name,
                way,
                format_bytes(one.freed_bytes),
                format_bytes(one.mapped_bytes),
                one.reads,
            )
            for (name, way), one in tried.items()
        ],
    )
    notebook.table(
        f"by our own table, all but {format_bytes(len(_KEPT))} in the middle",
        ("memory", "freed", "the middle is as it was"),
        [(name, format_bytes(freed), is_whole) for name, (freed, is_whole) in by_table.items()],
    )


def _claim(
    notebook: Notebook,
    tried: dict[tuple[str, str], Outcome],
    by_table: dict[str, tuple[int, bool]],
) -> None:
    kinds = [kind for kind in KINDS if kind.name in by_table]
    shared = [kind for kind in kinds if kind.is_shared]
    with_file = [kind for kind in kinds if kind.open is not None]
    notebook.claim(
        "MADV_DONTNEED frees private anonymous memory, and a reader finds zeros",
        holds=tried[KINDS[0].name, "DONTNEED"].frees_all,
    )
    notebook.claim(
        "of shared memory, whatever kind, it frees nothing, and a reader finds what was there",
        holds=all(tried[kind.name, "DONTNEED"].frees_nothing for kind in shared),
    )
    notebook.claim(
        "this process's page tables forget that memory all the same",
        holds=all(tried[kind.name, "DONTNEED"].mapped_bytes == 0 for kind in shared),
    )
    notebook.claim(
        "MADV_REMOVE frees shared memory of every kind, and refuses memory that is private",
        holds=all(tried[kind.name, "REMOVE"].frees_all for kind in shared)
        and tried[KINDS[0].name, "REMOVE"].refusal == "EINVAL",
    )
    notebook.claim(
        "a hole in its file frees every kind that has a file",
        holds=all(tried[kind.name, "PUNCH_HOLE"].frees_all for kind in with_file),
    )
    given = SIZE_BYTES - len(_KEPT)
    notebook.claim(
        "our table has for each kind a way that frees what was given, and nothing else",
        holds=all(found == (given, True) for found in by_table.values()),
    )


EXPERIMENT: Final = Experiment(
    name="dontneed-shared",
    question="Why does MADV_DONTNEED not free shared memory, and what does?",
    answer="On shared memory MADV_DONTNEED makes the caller forget where the pages are and frees"
    " none of them; MADV_REMOVE, or a hole punched in the file, frees them for everybody.",
    explanation="Shared memory belongs to a file, also where nobody sees one: shared anonymous"
    " memory is a file of the kernel's own tmpfs. Who maps a file can only stop mapping it; what"
    " is in the file stays, because somebody else may want to read it. The process's resident size"
    " falls all the same, which is why the mistake is not noticed at once. A private page has no"
    " other owner, so forgetting it frees it. A device has to know what kind of memory its guest"
    " has: ours punches a hole where there is a file, and gives advice where there is none.",
    sources=(
        "Linux mm/madvise.c, madvise_dontneed_single_vma, madvise_remove",
        "Linux mm/shmem.c, shmem_fallocate; fs/hugetlbfs/inode.c, hugetlbfs_punch_hole",
        "QEMU system/physmem.c, ram_block_discard_range",
        "QEMU commit of April 2021 (softmmu/physmem: ... to handle shared anonymous memory)",
    ),
    runs={Kernel.HOST: _on_host},
)
