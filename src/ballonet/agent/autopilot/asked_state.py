"""What an operator has asked of the autopilot while it runs, in a file that outlives the agent.

The file is in a directory that no boot survives, and is gone when there is nothing to remember.
Units: bytes, seconds.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from ballonet.errors import SystemCallError
from ballonet.runtime.files import read_small, write_whole

__all__ = ["AskedState", "Lease", "Wishes"]

_NAME: Final = "autopilot.asked"
_log = logging.getLogger(__name__)


class Lease(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Memory that is kept for somebody who is not here yet."""

    bytes: int
    until_wall_s: float


class Wishes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that was asked."""

    is_dry_run: bool = False
    paused: frozenset[str] = frozenset()  #: names of machines
    lease: Lease | None = None

    @property
    def lease_bytes(self) -> int:
        """What is kept free now."""
        if self.lease is None or time.time() >= self.lease.until_wall_s:
            return 0
        return self.lease.bytes


class AskedState:
    """In the directory of an agent; who uses it is the only agent there."""

    def __init__(self, directory: Path) -> None:
        self._path: Final = directory / _NAME
        self.wishes = self._read()

    def change(self, **fields: object) -> None:
        """Remember something else; a disk that is full is no reason to fail."""
        self.wishes = msgspec.structs.replace(self.wishes, **fields)
        try:
            if self.wishes == Wishes():
                self._path.unlink(missing_ok=True)
            else:
                write_whole(self._path, msgspec.json.encode(self.wishes).decode())
        except (OSError, SystemCallError) as error:
            _log.warning("what was asked of the autopilot is not written down: %s", error)

    def _read(self) -> Wishes:
        with suppress(SystemCallError, ValueError, msgspec.MsgspecError):
            data = read_small(self._path)
            if data is not None:
                return msgspec.json.decode(data, type=Wishes)
        return Wishes()
