"""Pages that are not of 4 KiB: the guest's, and the host's."""

from __future__ import annotations

import mmap
import os
import platform
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

import numpy as np

from ballonet.balloon.page_ledger import PageLedger
from ballonet.errors import GuestError
from ballonet.guests.qtest_machine import QtestMachine, QtestSettings
from ballonet.lab.experiment import Experiment, Kernel
from ballonet.lab.memory_kinds import HUGE_PAGE_BYTES, KINDS, Piece, made
from ballonet.lab.notebook import Notebook
from ballonet.memory.huge_pages import reserve_huge_pages
from ballonet.memory.mapping import GuestMemory
from ballonet.memory.regions import Region
from ballonet.units import BALLOON_PAGE_BYTES, bytes_to_pages, format_bytes, pages_to_bytes

__all__ = ["EXPERIMENT"]

_MEMORY_BYTES: Final = 64 << 20
_GUEST_PAGES_BYTES: Final = (4096, 16384, 65536)
#: No multiple of the bigger pages.
_TARGET_PAGES: Final = 37
_HUGE_TARGET_PAGES: Final = 8192
#: Nothing but the balloon: free pages that are reported would be dropped, too.
_QEMU: Final = QtestSettings(_MEMORY_BYTES, options=())
_FILL: Final = b"\x5a"
_PARTS: Final = HUGE_PAGE_BYTES // BALLOON_PAGE_BYTES
_TAKEN_PART: Final = 7


def _on_qemu(notebook: Notebook) -> None:
    rows = []
    for page_bytes in _GUEST_PAGES_BYTES:
        size = format_bytes(page_bytes)
        notebook.step(f"a guest with pages of {size} is asked for {_TARGET_PAGES} of 4 KiB")
        with QtestMachine(replace(_QEMU, page_bytes=page_bytes)) as machine:
            notebook.runs_on("", f"QEMU {machine.version}'s balloon, driven by our driver")
            rows.append((page_bytes, *_give(machine, _TARGET_PAGES)))
    notebook.table(
        "what the host dropped",
        ("the guest's page", "in the balloon", "parts of 4 KiB", "dropped", "just those"),
        [(format_bytes(size), *row) for size, *row in rows],
    )
    _claim_units(notebook, rows)
    notebook.step("the same with memory of huge pages, and a balloon of half the guest")
    held = _give_huge()
    notebook.see("host memory before", held[0], "bytes")
    notebook.see("with the balloon", held[1], "bytes")
    notebook.claim(
        "QEMU puts huge pages together within one message only: of 256 numbers none goes",
        holds=held[0] == held[1] == _MEMORY_BYTES,
    )
    notebook.conclude(
        f"Asked for {_TARGET_PAGES} pages, guests with pages of"
        f" {', '.join(format_bytes(size) for size, *_ in rows)} gave"
        f" {', '.join(str(row[1]) for row in rows)}, each numbered in units of 4 KiB; of huge pages"
        f" QEMU dropped {format_bytes(held[0] - held[1])}."
    )


def _give(machine: QtestMachine, target_pages: int) -> tuple[int, int, int, bool]:
    """Have a balloon of that size or a little more.

    Returns: what the driver says is in it, how many parts of 4 KiB the guest's pages in it have,
    how many were dropped, and whether it is just those.
    """
    machine.memory.view[:] = _FILL * _MEMORY_BYTES
    driver = machine.start_driver()
    machine.set_target(target_pages)
    if not machine.run_until(lambda: driver.size.actual_pages >= target_pages):
        raise GuestError(f"there is no balloon of {target_pages} pages")
    machine.run(0)
    frames = driver.size.pages.frames
    page_bytes = machine.settings.page_bytes
    inside = {
        bytes_to_pages(int(frame) * page_bytes) + part
        for frame in frames
        for part in range(page_bytes // BALLOON_PAGE_BYTES)
    }
    dropped = _holes(machine.memory.fd)
    return driver.size.actual_pages, len(inside), len(dropped), dropped == inside


def _holes(fd: int) -> set[int]:
    """Which 4 KiB of a file that was written all over are not there."""
    found: set[int] = set()
    at = 0
    while at < _MEMORY_BYTES:
        hole = os.lseek(fd, at, os.SEEK_HOLE)
        if hole >= _MEMORY_BYTES:
            break
        try:
            at = os.lseek(fd, hole, os.SEEK_DATA)
        except OSError:  # nothing behind it
            at = _MEMORY_BYTES
        found |= set(range(bytes_to_pages(hole), bytes_to_pages(at)))
    return found


def _claim_units(notebook: Notebook, rows: Iterable[tuple[int, int, int, int, bool]]) -> None:
    notebook.claim(
        "a guest gives whole pages of its own, at least as many as it was asked for",
        holds=all(
            actual == -(-_TARGET_PAGES // (size >> 12)) * (size >> 12) for size, actual, *_ in rows
        ),
    )
    notebook.claim(
        "a number stands for 4 KiB whatever the guest's page: just its pages are dropped",
        holds=all(actual == sent == dropped and same for _, actual, sent, dropped, same in rows),
    )


def _give_huge() -> tuple[int, int]:
    """Host memory of a guest with huge pages before and with a balloon, in bytes."""
    with (
        reserve_huge_pages(_MEMORY_BYTES // HUGE_PAGE_BYTES),
        QtestMachine(replace(_QEMU, huge=True)) as machine,
    ):
        machine.memory.view[:] = _FILL * _MEMORY_BYTES
        before = machine.memory.held_bytes
        driver = machine.start_driver()
        machine.set_target(_HUGE_TARGET_PAGES)
        if not machine.run_until(lambda: driver.size.actual_pages == _HUGE_TARGET_PAGES):
            raise GuestError("there is no balloon in huge pages")
        machine.run(0)
        return before, machine.memory.held_bytes


class _Balloon:
    """Our ledger and our discards over a piece of memory, as in a device of ours."""

    def __init__(self, piece: Piece) -> None:
        self.piece: Final = piece
        self._memory = GuestMemory()
        if piece.fd is None:
            raise GuestError(f"{piece.kind.name} cannot be a guest's: it has no file")
        size = len(piece.mapping)
        self._memory.replace([Region(0, size, 0, 0, piece.kind.page_bytes)], [piece.fd])
        self._ledger = PageLedger()

    def inflate(self, parts: Iterable[int]) -> int:
        """A message with these numbers; returns what the host holds then, in bytes."""
        pfns = np.fromiter(parts, np.uint32)
        for ranges in self._ledger.hold(pfns, self._memory.table)[0]:
            self._memory.discard(ranges)
        return self.piece.held_bytes()

    def deflate(self, parts: Iterable[int]) -> None:
        """A message with numbers that are the guest's again."""
        self._ledger.take_back(np.fromiter(parts, np.uint32), 0)

    def close(self) -> None:
        """Let the memory go."""
        self._memory.close()


def _on_host(notebook: Notebook) -> None:
    huge = KINDS[-1]
    release = os.uname().release
    notebook.runs_on(release, f"this machine, {platform.machine()}, with our ledger and discards")
    with made(huge) as piece:
        balloon = _Balloon(piece)
        try:
            _follow(notebook, balloon)
        finally:
            balloon.close()


def _follow(notebook: Notebook, balloon: _Balloon) -> None:
    piece = balloon.piece
    whole, one = piece.held_bytes(), range(_PARTS)
    rows = [("nothing yet", whole)]

    def note(what: str, held: int) -> int:
        rows.append((what, held))
        return held

    notebook.step("a huge page is given in messages of 256 numbers, the last part last")
    first = note("256 parts", balloon.inflate(one[:256]))
    missing = note("511 parts, all but one", balloon.inflate(one[256:-1]))
    gone = note("all 512 parts", balloon.inflate(one[-1:]))
    notebook.step("the guest takes one part back, and writes to it")
    balloon.deflate([_TAKEN_PART])
    taken = note("one part taken back", piece.held_bytes())
    piece.mapping[pages_to_bytes(_TAKEN_PART)] = 1
    written = note("and written to", piece.held_bytes())
    given = note("and given again", balloon.inflate([_TAKEN_PART]))
    notebook.step("of another huge page some parts are given, taken back, and the others given")
    other = range(_PARTS, 2 * _PARTS)
    balloon.inflate(other[:256])
    balloon.deflate(other[:256])
    kept = note("the other 256 parts", balloon.inflate(other[256:]))
    is_whole = all(map(piece.is_as_written, range(*_bytes_of(other), mmap.PAGESIZE)))
    notebook.table("held by the host", ("given", "bytes"), [(a, format_bytes(b)) for a, b in rows])
    notebook.claim("with one part missing nothing goes", holds=first == missing == whole)
    notebook.claim("with all 512 parts it goes", holds=gone == whole - HUGE_PAGE_BYTES)
    notebook.claim("taking a part back costs nothing", holds=taken == gone)
    notebook.claim("a write to that part brings a whole huge page", holds=written == whole)
    notebook.claim("given again, it goes again", holds=given == gone)
    notebook.claim(
        "parts that were taken back do not count: the page stays, and its bytes",
        holds=kept == gone and is_whole,
    )
    notebook.conclude(
        f"A huge page stayed with 511 of its {_PARTS} parts given, and went with the last;"
        f" one part taken back and written to brought {format_bytes(written - taken)}."
    )


def _bytes_of(parts: range) -> tuple[int, int]:
    return pages_to_bytes(parts.start), pages_to_bytes(parts.stop)


EXPERIMENT: Final = Experiment(
    name="page-size",
    question="What if a page of the guest or of the host is not 4 KiB?",
    answer="The balloon always counts in 4 KiB: a guest with bigger pages names all parts of each,"
    " and a host with bigger pages can drop one only when all its parts were named and none was"
    " taken back.",
    explanation="The unit is fixed by the specification (VIRTIO_BALLOON_PFN_SHIFT is 12). A Linux"
    " with pages of 64 KiB sends 16 numbers for each, and its balloon grows in steps of 16, past"
    " the target if need be. A huge page of the host has 512 parts, more than the 256 numbers of a"
    " message. QEMU puts parts together within one message only, so that such memory is never"
    " dropped, and warns about it; a device that knows by MUST_TELL_HOST how long a part stays in"
    " the balloon can do so over many messages, as ours does. A part taken back makes the whole"
    " page the guest's, whose first write brings 2 MiB. The guest is our own kernel here, because"
    " no kernel for this machine has other pages; the numbers are taken by QEMU's own device, and"
    " the huge pages are real.",
    sources=(
        "Virtio specification 1.3, section 5.5.6 (Device operation)",
        "Linux drivers/virtio/virtio_balloon.c, set_page_pfns, towards_target",
        "Linux include/uapi/linux/virtio_balloon.h, VIRTIO_BALLOON_PFN_SHIFT",
        "QEMU hw/virtio/virtio-balloon.c, balloon_inflate_page, virtio_balloon_pbp_alloc",
    ),
    runs={Kernel.QEMU: _on_qemu, Kernel.HOST: _on_host},
)
