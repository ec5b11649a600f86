"""The order of what follows a guest that goes before its memory: its pages go after it.

Theory of operation.  Guest and device stand still here, nothing is written any more, and everything
but some pages has been sent: the states, and what the device uses, which is never missing.  Then

    announce what is missing -> serve until loaded -> hand over -> GO -> serve the rest -> END

To serve is: what somebody waits for goes first and by itself, then the rest in small pieces.  Up to
the hand-over the guest is ours, and goes on here if anything fails; after it the destination's, for
good.  What was announced stays here as it is until END was confirmed, so a channel that breaks
costs nothing: the destination says over a new one what it has received, and the rest is served.
GO is said over each channel: whether it has come over a broken one cannot be known.
Not here: the passes before (passes.py), which page is next (postcopy.py), how it is done.
Units: balloon pages, bytes, nanoseconds.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ballonet.balloon.clock import Clock
from ballonet.memory.runs import PageRuns
from ballonet.migration.convergence import Convergence
from ballonet.migration.postcopy import ServedPages, as_set
from ballonet.migration.settings import MigrationSettings

__all__ = ["Following", "Heard", "PostcopySource", "split_pending"]

Pages = NDArray[np.bool_]

#: Sent at once of what nobody waits for: 256 KiB, for whoever begins to wait then.
_PIECE_PAGES: Final = 64
#: When there is nothing to do but to hear.
_WAIT_NS: Final = 100_000_000


class Heard(NamedTuple):
    """What the destination has said."""

    wanted_pfns: list[int]  #: somebody waits for these pages
    is_loaded: bool  #: it has everything but pages, and waits for GO


class PostcopySource(Protocol):
    """The guest at its source, with the way to its destination.

    Every method may raise MigrationError: before the hand-over the guest goes on here then, after
    it all waits for a new channel.
    """

    @property
    def is_asked(self) -> bool:
        """Somebody wants the guest to go on at the destination now."""
        ...

    def needed_at_once(self) -> PageRuns:
        """What the device uses: its process reads memory by a mapping that notices no absence."""
        ...

    def holes(self) -> PageRuns:
        """Pages without memory, as `send_holes` tells them: nobody has to wait for one."""
        ...

    def announce(self, missing: PageRuns) -> None:
        """Say what the destination has to ask for."""
        ...

    def send(self, runs: PageRuns) -> int:
        """Send these pages; returns the bytes that needs."""
        ...

    def hear(self, wait_ns: int) -> Heard:
        """What the destination has said since the last call; waits so long for anything."""
        ...

    def hand_over(self) -> None:
        """Give the guest up: it never runs here again by itself."""
        ...

    def go(self) -> None:
        """Say so."""
        ...

    def end(self) -> None:
        """Say that everything was sent; returns when all of it is there."""
        ...


def split_pending(pending: Pages, source: PostcopySource) -> tuple[Pages, Pages]:
    """What has to be sent before the guest, which stands still, goes on; and what may follow."""
    is_needed = as_set(source.needed_at_once(), pending.size)
    is_there = pending & ~as_set(source.holes(), pending.size)
    return is_there & is_needed, is_there & ~is_needed


class Following:
    """The pages that follow one guest, over one channel."""

    def __init__(
        self,
        source: PostcopySource,
        served: ServedPages,
        settings: MigrationSettings,
        clock: Clock,
    ) -> None:
        self.sent_bytes = 0
        self.wanted_pages = 0  #: that somebody has asked for
        self._source, self._served, self._clock = source, served, clock
        bandwidth = settings.postcopy_bandwidth_bytes_per_s
        self._pace = Convergence(replace(settings, bandwidth_bytes_per_s=bandwidth), clock)
        self._next_ns = clock.now_ns()  # when more of what nobody waits for may be sent
        self._is_loaded = False

    @property
    def left_pages(self) -> int:
        """Still to be sent."""
        return self._served.left_pages

    def until_hand_over(self) -> None:
        """Announce and serve until the guest is the destination's. Raises: what the source does."""
        self._source.announce(self._served.left())
        while not self._is_loaded:
            self._step()
        self._source.hand_over()

    def rest(self) -> None:
        """Let the guest go on there, and serve to the end. Raises: what the source does."""
        self._source.go()
        while self._served.left_pages:
            self._step()
        self._source.end()

    def _step(self) -> None:
        """Hear, then send something."""
        heard = self._source.hear(self._idle_ns())
        self._is_loaded |= heard.is_loaded
        self.wanted_pages += len(heard.wanted_pfns)
        for pfn in heard.wanted_pfns:
            self._served.want(pfn)
        if not self._served.is_wanted and self._clock.now_ns() < self._next_ns:
            return
        runs = self._served.take(_PIECE_PAGES)
        if runs is None:
            return
        begun_ns = self._clock.now_ns()
        sent_bytes = self._source.send(runs)
        self.sent_bytes += sent_bytes
        now_ns = self._clock.now_ns()
        self._next_ns = now_ns + self._pace.sent(sent_bytes, now_ns - begun_ns)

    def _idle_ns(self) -> int:
        """For how long nothing may be sent, or can be."""
        if self._served.is_wanted:
            return 0
        if not self._served.left_pages:
            return _WAIT_NS
        return min(_WAIT_NS, max(0, self._next_ns - self._clock.now_ns()))
