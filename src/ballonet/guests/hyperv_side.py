"""Hyper-V's balloon in the embedded guest: our driver, and its messages over a link to our host.

A host that is found again has forgotten what the guest gave, and will not give it back.  So all of
it is the guest's again, and another driver introduces itself, as after the module was loaded anew.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ballonet.errors import UsageError, WireError
from ballonet.guests.linked_side import LinkedSide
from ballonet.hyperv.driver import HypervDriver
from ballonet.hyperv.layouts import RANGE_PAGES_MAX, RawRanges, join_ranges
from ballonet.hyperv.settings import HypervDriverSettings
from ballonet.kernel.kernel import Kernel
from ballonet.kernel.tasks import Flag, Job, Rest
from ballonet.memory.runs import PageRuns
from ballonet.memory.shared_file import SharedFile
from ballonet.runtime.event_loop import Watcher
from ballonet.siblings.framing import Frame, FrameKind

__all__ = ["HypervSide"]


class HypervSide(LinkedSide):
    """A `BalloonSide`."""

    def __init__(self, kernel: Kernel, watcher: Watcher, path: Path, memory: SharedFile) -> None:
        self._kernel = kernel
        self._found = Flag()  # another host
        self.driver = self._make_driver()
        super().__init__("hyperv", watcher, path, memory)

    @property
    def linked_driver(self) -> HypervDriver:
        """The driver of the moment."""
        return self.driver

    def start(self) -> None:
        """Find the host and begin. Raises: GuestError."""
        super().start()
        self._kernel.scheduler.spawn("hyperv hosts", self._follow_hosts())

    def freeze(self) -> Job[None]:
        """Not modelled. Raises: UsageError."""
        raise UsageError("this driver of Hyper-V's balloon does not hibernate")

    def restore(self) -> Job[None]:
        """The same. Raises: UsageError."""
        raise UsageError("this driver of Hyper-V's balloon does not hibernate")

    def _send(self, message: bytes) -> bool:
        return self._link.send(FrameKind.MESSAGE, message)

    def _received(self, frame: Frame) -> None:
        """Raises: WireError, if the host says what no host of Hyper-V's says."""
        if frame.kind is not FrameKind.MESSAGE:
            raise WireError("frame", frame.kind.name, "must be a message", "siblings.framing")
        self.driver.received(frame.body)

    def _found_again(self) -> None:
        self._found.set()

    def _follow_hosts(self) -> Job[None]:
        """Begin anew with each; by one task, so that there is one driver at a time."""
        while True:
            yield Rest(self._found)
            self._found.clear()
            yield from self.driver.stop()
            self.driver.balloon.deflate(_all_ranges(self._kernel.table.use.size))
            self.driver = self._make_driver()
            self.driver.start()

    def _make_driver(self) -> HypervDriver:
        return HypervDriver(self._kernel, self._send, HypervDriverSettings())


def _all_ranges(frames: int) -> RawRanges:
    """Ranges that name every frame there is."""
    firsts = np.arange(0, frames, RANGE_PAGES_MAX)
    pages = np.minimum(frames - firsts, RANGE_PAGES_MAX)
    return join_ranges(PageRuns(firsts, pages))
