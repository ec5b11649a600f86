"""Keys of a terminal, by the bytes that they send.

A letter is itself; other keys have names.  Escape alone is also how the others begin: whoever
reads waits for a moment, and then says that nothing more comes (`flush`).
Source: xterm's ctlseqs, terminfo's kcuu1 and its kind; both forms that terminals send.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

__all__ = ["KeyReader"]

_NAMES: Final = {
    b"\x1b[A": "up",
    b"\x1b[B": "down",
    b"\x1bOA": "up",
    b"\x1bOB": "down",
    b"\x1b[5~": "page up",
    b"\x1b[6~": "page down",
    b"\x1b[H": "home",
    b"\x1bOH": "home",
    b"\x1b[1~": "home",
    b"\x1b[F": "end",
    b"\x1bOF": "end",
    b"\x1b[4~": "end",
    b"\x1b": "escape",
    b"\r": "enter",
    b"\n": "enter",
    b"\x7f": "backspace",
    b"\x08": "backspace",
    b"\x15": "clear",  # Ctrl-U
    b"\x0c": "redraw",  # Ctrl-L
}
#: Escape sequences, a letter of UTF-8, a byte of anything else.
_KEY: Final = re.compile(
    rb"\x1b\[[0-?]*[ -/]*[@-~]|\x1bO[ -~]|\x1b"
    rb"|[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}|.",
    re.DOTALL,
)
#: What may become more than it is.
_BEGUN: Final = re.compile(
    rb"\x1b(\[[0-?]*[ -/]*|O)?|[\xc2-\xdf]|[\xe0-\xef][\x80-\xbf]?|[\xf0-\xf4][\x80-\xbf]{0,2}"
)
#: Nobody types a longer one.
_BEGUN_MOST: Final = 32


class KeyReader:
    """Bytes in, keys out."""

    def __init__(self) -> None:
        self._begun = b""

    @property
    def waits(self) -> bool:
        """The newest key may not be complete."""
        return bool(self._begun)

    def feed(self, data: bytes) -> list[str]:
        """Every key that is complete."""
        data, self._begun = self._begun + data, b""
        keys: list[str] = []
        place = 0
        while place < len(data):
            if len(data) - place <= _BEGUN_MOST and _BEGUN.fullmatch(data, place):
                self._begun = data[place:]
                break
            raw = _KEY.match(data, place)[0]  # type: ignore[index] # it matches any byte
            place += len(raw)
            keys += _key(raw)
        return keys

    def flush(self) -> list[str]:
        """What was begun, now that nothing more comes."""
        data, self._begun = self._begun, b""
        return ["escape"] if data == b"\x1b" else []


def _key(raw: bytes) -> Iterator[str]:
    """None, if nobody here knows it."""
    if raw in _NAMES:
        yield _NAMES[raw]
        return
    text = raw.decode("utf-8", "replace")
    if len(text) == 1 and text.isprintable() and text != "\ufffd":
        yield text
