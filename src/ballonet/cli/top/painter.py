"""Lines of a screen as a terminal takes them: only those that have changed, in one piece."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.text import Text

__all__ = ["Painter"]

#: A terminal that knows these shows all that is between them at once.
_BEGIN: Final = "\x1b[?2026h"
_END: Final = "\x1b[?2026l"


class Painter:
    """Knows what the terminal shows."""

    def __init__(self) -> None:
        self._console = Console(file=io.StringIO(), force_terminal=True, highlight=False)
        self._encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        self._shown: list[str] = []

    def forget(self) -> None:
        """Whatever was shown is there no more."""
        self._shown = []

    def paint(self, lines: Sequence[Text], columns: int) -> bytes:
        """What has to be sent for these lines, nothing if they are shown already."""
        self._console.width = columns
        drawn = [self._drawn(line) for line in lines]
        is_new = len(drawn) != len(self._shown)
        changed = [
            f"\x1b[{number};1H\x1b[K{text}"
            for number, text in enumerate(drawn, 1)
            if is_new or text != self._shown[number - 1]
        ]
        self._shown = drawn
        if not changed:
            return b""
        clear = "\x1b[2J" if is_new else ""
        return f"{_BEGIN}{clear}{''.join(changed)}{_END}".encode(self._encoding, "replace")

    def _drawn(self, line: Text) -> str:
        with self._console.capture() as capture:
            self._console.print(line, end="", no_wrap=True, overflow="crop", crop=True)
        return capture.get()
