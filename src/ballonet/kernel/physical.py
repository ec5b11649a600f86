"""The bytes of guest memory, by frame; the memory itself belongs to whoever made the guest.

Pages are marked at both ends, which is enough to notice that one was lost, and cheap enough to do
for every page of a guest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ballonet.errors import GuestMemoryError
from ballonet.kernel.frames import Frames

__all__ = ["MemoryPiece", "PhysicalMemory"]

Words = NDArray[np.uint64]
_WORD_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class MemoryPiece:
    """Adjacent guest memory; address and length are multiples of the guest page."""

    gpa: int
    memory: memoryview


class PhysicalMemory:
    """All memory of a guest, in pages of `page_bytes`."""

    def __init__(self, pieces: Sequence[MemoryPiece], page_bytes: int) -> None:
        self.page_bytes: Final = page_bytes
        self.pieces: Final = tuple(sorted(pieces, key=lambda piece: piece.gpa))
        self._pages: list[tuple[int, int, Words]] = []
        for piece in self.pieces:
            words = np.frombuffer(piece.memory, np.uint64).reshape(-1, page_bytes // _WORD_BYTES)
            first = piece.gpa // page_bytes
            self._pages.append((first, first + len(words), words))

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """First frame, and frame after the last, of each piece."""
        return [(first, end) for first, end, _ in self._pages]

    def block_bytes(self, size: int) -> int:
        """The smallest block of pages that has room for so many bytes."""
        pages = -(-size // self.page_bytes)
        return self.page_bytes << (pages - 1).bit_length()

    def view(self, gpa: int, length: int) -> memoryview:
        """A window on guest memory. Raises: GuestMemoryError, if it does not lie in one piece."""
        for piece in self.pieces:
            start = gpa - piece.gpa
            if start >= 0 and start + length <= len(piece.memory):
                return piece.memory[start : start + length]
        raise GuestMemoryError(gpa, length)

    def mark(self, frames: Frames, words: Words) -> None:
        """Write a word to both ends of each page."""
        for pages, chosen, where in self._split(frames):
            pages[chosen, 0] = pages[chosen, -1] = words[where]

    def marked(self, frames: Frames, words: Words) -> bool:
        """Both ends of each page still hold their word."""
        return all(
            bool(
                (pages[chosen, 0] == words[where]).all()
                and (pages[chosen, -1] == words[where]).all()
            )
            for pages, chosen, where in self._split(frames)
        )

    def fill(self, frames: Frames, word: int) -> None:
        """Write a word all over each page."""
        for pages, chosen, _ in self._split(frames):
            pages[chosen] = word

    def filled(self, frames: Frames, word: int) -> bool:
        """Each page holds nothing but this word."""
        return all(bool((pages[chosen] == word).all()) for pages, chosen, _ in self._split(frames))

    def copy(self, old: Frames, new: Frames) -> None:
        """Copy pages."""
        content = np.empty((old.size, self.page_bytes // _WORD_BYTES), np.uint64)
        for pages, chosen, where in self._split(old):
            content[where] = pages[chosen]
        for pages, chosen, where in self._split(new):
            pages[chosen] = content[where]

    def release(self) -> None:
        """Let go of the memory, so that it can be unmapped."""
        self._pages.clear()

    def _split(self, frames: Frames) -> Iterator[tuple[Words, Frames, NDArray[np.bool_]]]:
        """Each piece's pages, the rows chosen of it, and which of `frames` those are."""
        for first, end, pages in self._pages:
            where = (frames >= first) & (frames < end)
            if where.any():
                yield pages, frames[where] - first, where
