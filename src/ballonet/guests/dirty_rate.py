"""How much an embedded guest writes: its writes are watched for a while, and counted.

Source: QEMU qapi/migration.json calc-dirty-rate, DirtyRateInfo.  Units: seconds, nanoseconds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Final

from ballonet.errors import BallonetError, MigrationError
from ballonet.migration.dirty_rate import dirty_bytes_per_s
from ballonet.migration.tracking import GuestSideTracking, WriteTracker

__all__ = ["DirtyRate"]

_NS_PER_S: Final = 1_000_000_000
_MIB: Final = 1 << 20


class DirtyRate:
    """A `Companion` of the machine's loop; one measurement at a time."""

    def __init__(self, memory: memoryview) -> None:
        self._side = GuestSideTracking(memory)
        self._tracker: WriteTracker | None = None
        self._protecting: Iterator[None] | None = None
        self._seconds = 0
        self._begun_ns = 0
        self._bytes_per_s: int | None = None
        self._start_s = 0.0
        self.deadline_ns: int | None = None  #: when it has lasted long enough

    @property
    def is_measuring(self) -> bool:
        """The guest's writes are watched for it."""
        return self._protecting is not None or self._tracker is not None

    def begin(self, seconds: int) -> None:
        """Watch for so long. Raises: MigrationError."""
        if self.is_measuring:
            raise MigrationError("the dirty rate is being measured already")
        self._seconds, self._bytes_per_s, self._start_s = seconds, None, time.monotonic()
        self._protecting = self._side.start()

    def work(self) -> bool:
        """A step of it; True while memory is being protected."""
        try:
            self._step()
        except BallonetError:  # who asks later is told that there is no measurement
            self._end()
        return self._protecting is not None

    def info(self) -> dict[str, object]:
        """As `query-dirty-rate` answers; the rate in MiB a second, rounded up."""
        status = "measuring" if self.is_measuring else "unstarted"
        answer: dict[str, object] = {
            "status": status,
            "start-time": int(self._start_s),
            "calc-time": self._seconds,
            "sample-pages": 0,
            "mode": "dirty-bitmap",
        }
        if self._bytes_per_s is not None:
            answer |= {"status": "measured", "dirty-rate": -(-self._bytes_per_s // _MIB)}
        return answer

    def close(self) -> None:
        """Watch no more; safe to call again."""
        self._end()

    def _step(self) -> None:
        """Raises: BallonetError."""
        if self._protecting is not None:
            if next(self._protecting, self) is not self:
                return
            self._protecting = None
            self._tracker = WriteTracker(os.getpid(), self._side.address, self._side.size)
            self._tracker.start()
            self._begun_ns = time.monotonic_ns()
            self.deadline_ns = self._begun_ns + self._seconds * _NS_PER_S
        elif self._tracker is not None and time.monotonic_ns() >= (self.deadline_ns or 0):
            written, now_ns = self._tracker.take(), time.monotonic_ns()
            self._bytes_per_s = dirty_bytes_per_s(written, self._begun_ns, now_ns)
            self._end()

    def _end(self) -> None:
        if self._tracker is not None:
            self._tracker.close()
        self._tracker = self._protecting = self.deadline_ns = None
        self._side.close()
