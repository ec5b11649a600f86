"""The order of a migration: what is read, begun, sent and stopped, and after what.

Theory of operation.  First every page is to be sent, and writes are seen from the start.  A pass:

    stop the hint round -> read the log, and have it begin anew -> begin a round -> send,
    and before each piece leave out what is hinted

A page leaves `pending` before it is read, so what is written after that is in the next log.  A hint
leaves out what the log said before the round began; what is written after is in the next log too.
That is all there is to losing nothing, and each line of it has a test that fails without it.
Pass by pass less is written, until stopping the guest costs no more than was asked for.  Then the
last pass: stop the round, stop guest and device, read the log once more, send, the state, the end.
With post-copy the guest may go before that: what is pending when it was stopped follows it, but for
what its device uses, which is sent with the last pass (postcopy_passes.py).
On every way out that is not success the guest goes on here, with all of its memory: DONE gives it
back what it has hinted.
Not here: how any of it is done (engine), after which pass to stop (convergence).
Source: VIRTIO 1.4 5.5.6.5; QEMU migration/ram.c migration_bitmap_sync_precopy.
Units: balloon pages, nanoseconds; sets of pages are bool arrays with a place for each pfn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ballonet.balloon.clock import Clock
from ballonet.errors import MigrationError
from ballonet.memory.runs import PageRuns, merge_pfns
from ballonet.migration.convergence import Convergence
from ballonet.migration.hint_filter import HintFilter
from ballonet.migration.postcopy import ServedPages
from ballonet.migration.postcopy_passes import Following, PostcopySource, split_pending
from ballonet.migration.settings import MigrationSettings, OnTimeout

__all__ = ["Observe", "Pages", "PassDone", "Passes", "Source"]

Pages = NDArray[np.bool_]

#: Sent between two looks at hints, at the time and at a wish to cancel: 4 MiB.
_PIECE_PAGES: Final = 1024


class Source(Protocol):
    """The guest that is to move, and the way to its destination.

    Every method may raise MigrationError, to cancel too; the guest goes on here then.
    """

    def start_tracking(self) -> None:
        """See every write of the guest and of its device from now on."""
        ...

    def stop_tracking(self) -> None:
        """Let them write unseen again."""
        ...

    def read_guest_log(self) -> PageRuns:
        """What the guest has written since the last call, or since tracking began.

        A page that is written again is in the next log: reading and beginning anew are one step.
        """
        ...

    def read_device_log(self) -> PageRuns:
        """The same of what the device has written."""
        ...

    def send(self, runs: PageRuns) -> int:
        """Send these pages as they are now; returns the bytes that needs."""
        ...

    def pause(self, ns: int) -> None:
        """Send nothing for so long."""
        ...

    def throttle(self, percent: int) -> None:
        """Let the guest stand still for a part of its time."""
        ...

    def stop_guest(self) -> None:
        """Stop the guest and its device: neither writes after this."""
        ...

    def resume_guest(self) -> None:
        """Let them go on here; also if they were not stopped wholly, or not at all."""
        ...

    def send_holes(self) -> None:
        """Tell which pages are not there, the balloon's above all: no log knows them."""
        ...

    def send_checksums(self, runs: PageRuns) -> None:
        """Tell what is in these pages, to be compared with what has arrived."""
        ...

    def send_state(self) -> None:
        """Send what the guest and its device are besides memory."""
        ...

    def commit(self) -> None:
        """Let the guest go on at the destination; returns when it has said that it is there."""
        ...


@dataclass(frozen=True, slots=True)
class PassDone:
    """One pass, for whoever watches."""

    number: int
    had_pages: int  #: to be sent when it began
    hinted_pages: int  #: and left out of it, because the guest said they are free
    sent_bytes: int
    ns: int
    dirty_pages: int  #: written meanwhile
    throttle_percent: int


Observe = Callable[[PassDone], None]


class Passes:
    """One migration; `run` is all of it."""

    def __init__(
        self,
        source: Source,
        memory: Pages,
        settings: MigrationSettings,
        clock: Clock,
        *,
        hints: HintFilter | None,
        postcopy: PostcopySource | None = None,
        observe: Observe = lambda _: None,
    ) -> None:
        """`memory`: the pages that there are at all; `hints`, `postcopy`: None, to go without.

        Raises: MigrationError, if there are hints or checksums and post-copy may follow.
        """
        if settings.verifies and settings.postcopy:
            raise MigrationError(
                "what has arrived cannot be compared when the guest goes on with post-copy"
            )
        if hints is not None and settings.postcopy:
            raise MigrationError(
                "hints and post-copy exclude each other: a page that was left out would be asked"
                " for, and the source believes that it need not send it"
            )
        self.pending: Pages = memory.copy()  #: still to be sent
        #: Not sent because of hints, and so anything at the destination.
        self.left_out: Pages = np.zeros_like(memory)
        self.convergence: Final = Convergence(settings, clock)
        self.number = 0  #: of the pass under way
        self.hinted_pages = 0  #: left out so far
        self.sent_pages = 0
        self.sent_bytes = 0
        self.verified_pages = 0  #: to be compared at the destination, at the end
        self._source, self._settings, self._clock = source, settings, clock
        self._memory, self._hints, self._observe = memory, hints, observe
        self._postcopy = postcopy if settings.postcopy else None
        self.following: Following | None = None  #: what follows a guest that went before its memory

    @property
    def remaining_pages(self) -> int:
        """What has still to be sent."""
        if self.following is not None:
            return self.following.left_pages
        return int(np.count_nonzero(self.pending))

    def run(self) -> None:
        """Move the guest; if there is something `following` it, that has begun and is to go on.

        Raises: MigrationError and whatever the source raises; the guest goes on here then.
        """
        source = self._source
        with ExitStack() as always, ExitStack() as on_failure:
            always.callback(source.stop_tracking)
            source.start_tracking()
            if self._hints is not None:
                on_failure.callback(self._hints.done)
            self._pass(self._settings.head_start_ns)
            while not self._is_called() and not self.convergence.may_stop(self.remaining_pages):
                self._pass()
            goes_early = self._goes_early()
            on_failure.callback(source.resume_guest)
            source.stop_guest()
            self._last_pass(goes_early)
            if self.following is not None:
                self.following.until_hand_over()
            else:
                source.commit()
            on_failure.pop_all()

    def _is_called(self) -> bool:
        """Somebody wants the guest to go now."""
        return self._postcopy is not None and self._postcopy.is_asked

    def _goes_early(self) -> PostcopySource | None:
        """Whether the rest is to follow the guest: it is called, or there was not time enough."""
        ends_so = self._settings.on_timeout is OnTimeout.POSTCOPY
        is_late = ends_so and self.convergence.is_overdue()
        return self._postcopy if is_late or self._is_called() else None

    def _pass(self, head_start_ns: int = 0) -> None:
        """Send what is pending, then take what was written meanwhile as the next."""
        self.number += 1
        begun_ns, had_pages = self._clock.now_ns(), self.remaining_pages
        hinted_pages, sent_bytes = self.hinted_pages, self.sent_bytes
        if self._hints is not None:
            self._hints.begin()
            self._leave_out(head_start_ns)
        self._send_pending()
        if self._hints is not None:
            self._hints.stop()
        self._read_logs()
        pass_ns, dirty_pages = self._clock.now_ns() - begun_ns, self.remaining_pages
        self.convergence.passed(had_pages, dirty_pages, pass_ns)
        self._source.throttle(self.convergence.throttle_percent)
        self._observe(
            PassDone(
                self.number,
                had_pages,
                self.hinted_pages - hinted_pages,
                self.sent_bytes - sent_bytes,
                pass_ns,
                dirty_pages,
                self.convergence.throttle_percent,
            )
        )

    def _last_pass(self, postcopy: PostcopySource | None) -> None:
        """Nobody writes any more: what is in the logs now is the rest, or follows the guest."""
        self.number += 1
        begun_ns, sent_bytes = self._clock.now_ns(), self.sent_bytes
        self._read_logs()
        if postcopy is not None:
            self.pending, follows = split_pending(self.pending, postcopy)
            served = ServedPages(follows)
            self.following = Following(postcopy, served, self._settings, self._clock)
        had_pages = int(np.count_nonzero(self.pending))
        for runs in self._pieces():
            self._send(runs)
        self._source.send_holes()
        if self._settings.verifies:
            pfns = np.flatnonzero(self._memory & ~self.left_out)
            self._source.send_checksums(merge_pfns(pfns.view(np.uint64)))
            self.verified_pages = pfns.size
        self._source.send_state()
        ns = self._clock.now_ns() - begun_ns
        sent_bytes = self.sent_bytes - sent_bytes
        self._observe(PassDone(self.number, had_pages, 0, sent_bytes, ns, 0, 0))

    def _read_logs(self) -> None:
        """Both are read before either is worked on: less is written meanwhile."""
        for runs in (self._source.read_guest_log(), self._source.read_device_log()):
            for first, pages in runs.pairs():
                self.pending[first : first + pages] = True

    def _send_pending(self) -> None:
        """Send what is pending; ends early only where the guest is to be stopped now.

        The first pass is sent whole even for a guest that is called: what it lacks is then what it
        has written since, and not nearly everything.
        """
        for runs in self._pieces():
            wait_ns = self._send(runs)
            if wait_ns:
                self._source.pause(wait_ns)
            self._leave_out()
            if self.convergence.is_overdue() or (self.number > 1 and self._is_called()):
                return

    def _pieces(self) -> Iterator[PageRuns]:
        """Piece after piece of what is pending, each taken out before it is read."""
        pfns = np.flatnonzero(self.pending)
        for start in range(0, pfns.size, _PIECE_PAGES):
            piece = pfns[start : start + _PIECE_PAGES]
            piece = piece[self.pending[piece]]  # a hint may have come since
            self.pending[piece] = self.left_out[piece] = False
            if piece.size:
                yield merge_pfns(piece.view(np.uint64))

    def _send(self, runs: PageRuns) -> int:
        begun_ns = self._clock.now_ns()
        sent_bytes = self._source.send(runs)
        self.sent_pages += runs.total_pages
        self.sent_bytes += sent_bytes
        return self.convergence.sent(sent_bytes, self._clock.now_ns() - begun_ns)

    def _leave_out(self, wait_ns: int = 0) -> None:
        if self._hints is not None:
            self.hinted_pages += self._hints.apply(self.pending, self.left_out, wait_ns)
