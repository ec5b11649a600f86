"""Free page hints of a device that is another process: asked for at its monitor.

A device that cannot be asked, or a guest that gives no hints, costs nothing but the hints: the
migration goes on without, and says why.
Units: balloon pages, nanoseconds.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from ballonet.errors import MonitorError
from ballonet.memory.runs import PageRuns
from ballonet.runtime.monitor_socket import MonitorSocket

__all__ = ["DeviceHints"]

#: The guest gets its pages back so long after its engine is gone; one that sends asks more often.
_LEASE_S: Final = 10
_LOOK_S: Final = 0.005
#: A word of the device that says it hears of no more pages in this round.
_ENDED: Final = frozenset({"stop", "done"})


class DeviceHints:
    """A `HintSource`."""

    def __init__(self, monitor: Path) -> None:
        self._path = monitor
        self._monitor: MonitorSocket | None = None
        self._round = -1  # none
        self.trouble: str | None = None  #: why there are no hints

    def begin(self) -> int:
        """Begin a round; returns its id."""
        number = self._ask("x-ballonet-begin-hints", lease=_LEASE_S).get("id")
        self._round = -1 if number is None else int(number)  # None: this driver gives none
        return self._round

    def take(self, wait_ns: int) -> Iterator[tuple[int, PageRuns]]:
        """What came since the last call; waits so long for the driver to have no more."""
        end_ns = time.monotonic_ns() + wait_ns
        while self._round >= 0:
            answer = self._ask("x-ballonet-take-hints", id=self._round)
            if not answer:
                return
            runs = np.array(answer["runs"], np.int64).reshape(-1, 2)
            if runs.size:
                yield self._round, PageRuns(runs[:, 0], runs[:, 1])
            if answer["more"]:
                continue
            if answer["state"] in _ENDED or time.monotonic_ns() >= end_ns:
                return
            time.sleep(_LOOK_S)

    def stop(self) -> None:
        """End the round; none of its hints comes after this."""
        if self._round >= 0:
            self._ask("x-ballonet-stop-hints", lease=_LEASE_S)
            self._round = -1

    def done(self) -> None:
        """Let the guest have its pages back."""
        if self._monitor is not None:
            self._ask("x-ballonet-finish-hints")
            self.close()

    def close(self) -> None:
        """Leave the monitor."""
        if self._monitor is not None:
            self._monitor.close()
            self._monitor = None

    def _ask(self, command: str, **arguments: object) -> dict[str, Any]:
        """What the device answers; nothing, and no more hints, if it does not."""
        if self.trouble is not None:
            return {}
        try:
            if self._monitor is None:
                self._monitor = MonitorSocket(self._path)
            answer = self._monitor.execute(command, **arguments)
        except MonitorError as error:
            self.trouble = str(error)
            return {}
        return answer if isinstance(answer, dict) else {}
