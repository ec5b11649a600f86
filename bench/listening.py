"""Waiting for a program that was just started to listen at its socket."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from ballonet.errors import GuestError

__all__ = ["wait_for_listener"]

_PATIENCE_S: Final = 60.0
_LISTENS: Final = 0x10000  # __SO_ACCEPTCON


def wait_for_listener(path: Path) -> None:
    """Until somebody listens: the socket is there a moment before. Raises: GuestError."""
    end_s = time.monotonic() + _PATIENCE_S
    while not _is_listening(path):
        if time.monotonic() > end_s:
            raise GuestError(f"nobody listens at {path}")
        time.sleep(0.01)


def _is_listening(path: Path) -> bool:
    for line in Path("/proc/net/unix").read_text(encoding="utf-8").splitlines()[1:]:
        fields = line.split(maxsplit=7)
        if fields[7:] == [str(path)]:
            return bool(int(fields[3], 16) & _LISTENS)
    return False
