"""Hyper-V's balloon in the embedded guest: our driver, and its messages over a link to our host.

A host that is found again has forgotten what the guest gave, and will not give it back.  So all of
it is the guest's again, and another driver introduces itself, as after the module was loaded anew.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ballonet.errors import UsageError, WireError
from ballonet.hyperv.driver import HypervDriver
from ballonet.hyperv.messages import RANGE_PAGES_MAX, RawRanges, join_ranges
from ballonet.hyperv.settings import HypervDriverSettings
from ballonet.kernel.kernel import Kernel
from ballonet.kernel.tasks import Flag, Job, Rest
from ballonet.memory.regions import Region
from ballonet.memory.runs import PageRuns
from ballonet.memory.shared_file import SharedFile
from ballonet.runtime.event_loop import Watcher
from ballonet.siblings.framing import Frame, FrameKind, Hello
from ballonet.siblings.guest_link import GuestLink

__all__ = ["HypervSide"]


class HypervSide:
    """A `BalloonSide`."""

    def __init__(self, kernel: Kernel, watcher: Watcher, path: Path, memory: SharedFile) -> None:
        self._kernel = kernel
        self._found = Flag()  # another host
        self.driver = self._make_driver()
        self._link = GuestLink(
            watcher,
            path,
            Hello("hyperv", (Region(0, memory.size, 0, 0),)),
            [memory.fd],
            received=self._received,
            found_again=self._found_again,
        )

    @property
    def is_connected(self) -> bool:
        """There is a host."""
        return self._link.is_connected

    @property
    def deadline_ns(self) -> int | None:
        """When a lost host is to be looked for, by the host's clock."""
        return self._link.deadline_ns

    @property
    def actual_pages(self) -> int:
        """What the driver has in the balloon, in pages of 4 KiB."""
        return self.driver.actual_pages

    def start(self) -> None:
        """Find the host and begin. Raises: GuestError."""
        self._link.connect()
        self.driver.start()
        self._kernel.scheduler.spawn("hyperv hosts", self._follow_hosts())

    def reconnect(self) -> None:
        """Look for a host that is lost, if it is time."""
        self._link.reconnect()

    def facts(self) -> dict[str, object]:
        """What whoever asks the guest for its driver is told."""
        return {
            **self.driver.describe(),
            "actual_pages": self.driver.actual_pages,
            "reconnections": self._link.reconnections,
        }

    def freeze(self) -> Job[None]:
        """Not modelled. Raises: UsageError."""
        raise UsageError("this driver of Hyper-V's balloon does not hibernate")

    def restore(self) -> Job[None]:
        """The same. Raises: UsageError."""
        raise UsageError("this driver of Hyper-V's balloon does not hibernate")

    def remove(self) -> Job[None]:
        """Forget the host, which keeps what it has."""
        return self.driver.stop()

    def close(self) -> None:
        """Hang up; safe to call again."""
        self._link.close()

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
