"""Log lines a guest or front-end can cause, at most one of a kind in a second."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

__all__ = ["QuietLog"]

_INTERVAL_NS: Final = 1_000_000_000


class QuietLog:
    """Warnings with a limit; what was held back is counted into the next line of its kind."""

    def __init__(
        self, logger: logging.Logger, clock_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._logger, self._clock_ns = logger, clock_ns
        self._last_ns: dict[str, int] = {}
        self._held: dict[str, int] = {}

    def warn(self, kind: str, text: str) -> None:
        """Log `text`, unless a line of the same kind was logged less than a second ago."""
        now_ns = self._clock_ns()
        last_ns = self._last_ns.get(kind)
        if last_ns is not None and now_ns - last_ns < _INTERVAL_NS:
            self._held[kind] = self._held.get(kind, 0) + 1
            return
        self._last_ns[kind] = now_ns
        held = self._held.pop(kind, 0)
        self._logger.warning("%s%s", text, f" (and {held} more like it)" if held else "")
