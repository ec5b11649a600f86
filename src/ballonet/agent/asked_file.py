"""Whose intervals an agent has changed, in a file: one that is killed cannot put them back.

The next agent does it at its start.  The file is in a directory that no boot survives, as no
machine does, and is gone when nothing is to be put back.
Units: seconds.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from ballonet.errors import SystemCallError
from ballonet.runtime.files import read_small, write_whole
from ballonet.vms.adapters import ADAPTERS
from ballonet.vms.sighting import Sighting

__all__ = ["AskedFile"]

_NAME: Final = "agent.asked"
_log = logging.getLogger(__name__)


class _Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of the file."""

    interval_s: int
    machines: tuple[Sighting, ...]


#: Not what the file says, whatever that is.
_NEVER: Final = _Asked(0, ())


class AskedFile:
    """In the directory of an agent; who uses it is the only agent there."""

    def __init__(self, directory: Path) -> None:
        self._path: Final = directory / _NAME
        self._written: _Asked | None = _NEVER

    def note(self, interval_s: int, machines: Collection[Sighting]) -> None:
        """These are to be put back; a disk that is full is no reason to fail."""
        asked = _Asked(interval_s, tuple(machines)) if machines else None
        if asked == self._written:
            return
        self._written = asked
        try:
            if asked is None:
                self._path.unlink(missing_ok=True)
            else:
                write_whole(self._path, msgspec.json.encode(asked).decode())
        except (OSError, SystemCallError) as error:
            _log.warning("whose intervals were changed is not written down: %s", error)

    def left(self) -> tuple[int, tuple[Sighting, ...]]:
        """What an agent that was killed had still to put back: the interval, and of whom."""
        with suppress(SystemCallError, ValueError, msgspec.MsgspecError):
            data = read_small(self._path)
            if data is not None:
                asked = msgspec.json.decode(data, type=_Asked)
                known = (one for one in asked.machines if one.who.kind in ADAPTERS)
                return asked.interval_s, tuple(known)
        return 0, ()
