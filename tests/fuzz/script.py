"""Any bytes as a script of what a guest and its host do: the decoder of fuzz inputs.

An operation is one byte, its operands follow; missing bytes read as zero.  So every input is valid,
and flipping a bit of one changes a little of what happens.
"""

from __future__ import annotations

from typing import Final, TypeVar

T = TypeVar("T")

INTERESTING: Final = (0, 1, 2, 3, 4, 7, 8, 9, 16, 255, 4096, 65535, 2**31, 2**32 - 1, 2**64 - 4096)


class Script:
    """Bytes, read from the front."""

    def __init__(self, raw: bytes) -> None:
        self._raw, self._at = raw, 0

    @property
    def is_over(self) -> bool:
        """Nothing is left."""
        return self._at >= len(self._raw)

    def byte(self) -> int:
        """The next byte."""
        self._at += 1
        return self._raw[self._at - 1] if self._at <= len(self._raw) else 0

    def word(self) -> int:
        """A small number mostly, sometimes an interesting or a large one."""
        first = self.byte()
        if first < 0xE0:
            return first
        if first < 0xF0:
            return INTERESTING[first % len(INTERESTING)]
        return int.from_bytes(self.take(first % 8 + 1), "little")

    def take(self, count: int) -> bytes:
        """So many bytes, padded with zeros."""
        raw = self._raw[self._at : self._at + count]
        self._at += count
        return raw.ljust(count, b"\0")

    def choose(self, options: tuple[T, ...]) -> T:
        """One of these."""
        return options[self.byte() % len(options)]
