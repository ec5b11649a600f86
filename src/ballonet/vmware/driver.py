"""The guest's end of VMware's balloon: Linux's vmw_balloon on our kernel.

Theory of operation.  A worker asks for the target once a second, or at once when its doorbell is
rung, and lets the balloon grow or shrink.  It begins anew, at first and whenever the host answers
RESET: all pages are freed and nobody is told.  The balloon does not shrink by less than 2 MiB
unless to nothing, because growing in blocks may overshoot the target; and does not grow for 5 s
after the kernel needed its pages.
Other tasks may shrink it, or have one page replaced, while the worker does its work, but not while
it begins anew.
Not here: calls (host_calls), pages (balloon_frames), what carries calls (siblings).
Units: frames, which are balloon pages of 4 KiB.  Source: Linux drivers/misc/vmw_balloon.c
vmballoon_work, vmballoon_reset, vmballoon_change, vmballoon_migratepage, vmballoon_exit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np

from ballonet.balloon.clock import NS_PER_S
from ballonet.errors import GuestError
from ballonet.kernel.kernel import Kernel
from ballonet.kernel.tasks import Flag, Job, Rest, Task
from ballonet.units import BALLOON_PAGE_BYTES
from ballonet.vmware.balloon_frames import BalloonFrames
from ballonet.vmware.calls import (
    ALL_CAPABILITIES,
    BATCH_ENTRIES_MAX,
    HUGE_PAGES,
    NO_CAPABILITIES,
    Capability,
    capability_names,
)
from ballonet.vmware.deflation import Deflation
from ballonet.vmware.host_calls import CallHost, HostCalls
from ballonet.vmware.inflation import Inflation

__all__ = ["VmwareDriver", "VmwareDriverSettings"]

PERIOD_NS: Final = NS_PER_S
SLACK_FRAMES: Final = HUGE_PAGES
SHRINK_DELAY_NS: Final = 5 * NS_PER_S


@dataclass(frozen=True, slots=True)
class VmwareDriverSettings:
    """How a driver is set up."""

    wanted: Capability = ALL_CAPABILITIES
    doorbell: tuple[int, int] = (3, 1)  #: context and resource; 3 is the first guest's context
    shrinks: bool = False  #: gives pages to a kernel that would kill a process


class VmwareDriver:
    """One driver of one host; `call` carries a call there and back.

    Raises: GuestError, if the kernel's pages are not of 4 KiB.
    """

    def __init__(self, kernel: Kernel, call: CallHost, settings: VmwareDriverSettings) -> None:
        if kernel.page_bytes != BALLOON_PAGE_BYTES:
            raise GuestError(f"VMware's balloon has no pages of {kernel.page_bytes} bytes")
        self.calls: Final = HostCalls(kernel, call)
        self.balloon: Final = BalloonFrames(kernel)
        self.stats: Final[Counter[str]] = Counter()
        self._kernel, self._settings = kernel, settings
        parts = (self.calls, self.balloon, self._change, self.stats)
        self._inflation = Inflation(kernel, *parts)
        self._deflation = Deflation(*parts)
        self._wanted = Flag()  # the worker is not to wait any longer
        self._due_ns: int | None = None
        self._grows_from_ns = 0
        self._worker: Task | None = None
        self._is_stopping = self._is_exclusive = self._has_doorbell = False
        self._users = 0  # other tasks that move pages
        self._unused = Flag()
        self._unused.set()

    @property
    def actual_pages(self) -> int:
        """What is in the balloon."""
        return self.balloon.size

    @property
    def target_pages(self) -> int:
        """What the host asked for last."""
        return self.calls.target_pages

    def start(self) -> None:
        """Begin; the worker introduces itself."""
        self._kernel.compaction.move_balloon_page = self.move
        if self._settings.shrinks:
            self._kernel.oom_notifiers.append(self.shrink)
        self._worker = self._kernel.scheduler.spawn("vmballoon", self._run())
        self._wanted.set()

    def ring_doorbell(self) -> None:
        """The host has rung."""
        if self._has_doorbell:
            self.stats["doorbell"] += 1
            self._wanted.set()

    def stop(self) -> Job[None]:
        """Leave: the host forgets all pages, and then they are freed."""
        if self.shrink in self._kernel.oom_notifiers:
            self._kernel.oom_notifiers.remove(self.shrink)
        self._is_stopping = True
        yield from self._unset_doorbell()
        self._wanted.set()
        if self._worker is not None:
            yield self._worker.done
        yield from self._exclude_others()
        self._kernel.compaction.move_balloon_page = None
        yield from self.calls.start(NO_CAPABILITIES)
        self.balloon.free_all()
        self.calls.free_batch_page()

    def shrink(self) -> Job[int]:
        """Give pages to a kernel that needs them; returns how many.

        Linux does so when it reclaims; here an answer may have to be waited for, and only who would
        kill a process waits.
        """
        if self._is_exclusive:
            return 0
        with self._use():
            freed = yield from self._deflation.run_some(BATCH_ENTRIES_MAX)
        if freed:
            self.stats["shrunk"] += freed
            self._grows_from_ns = self._kernel.scheduler.now_ns + SHRINK_DELAY_NS
        return freed

    def move(self, source: int, target: int) -> Job[bool]:
        """Let another frame take the place of one; False if that cannot be.

        If the host takes the one back and not the other, the balloon is smaller.
        """
        if self._is_exclusive or not self.balloon.take_one(source):
            return False
        old = np.array([source])
        with self._use():
            unlocked, locked = yield from self.calls.exchange(source, target)
        if not unlocked:
            self.balloon.put_back(old, 1)
        elif not locked:
            self.balloon.free(old, 1)
        else:
            self.balloon.replace(source, target)
        return locked

    def describe(self) -> dict[str, object]:
        """As Linux's debugfs has it; words are joined by dashes."""
        return {
            "capabilities": list(capability_names(self.calls.capabilities)),
            "is-resetting": self.calls.reset_required,
            "target-pages": self.target_pages,
            "actual-pages": self.actual_pages,
            "calls": dict(self.calls.made),
            "failed-calls": dict(self.calls.failed),
            "pages": dict(self.stats),
        }

    def _run(self) -> Job[None]:
        while True:
            yield Rest(self._wanted, self._due_ns)
            self._wanted.clear()
            if self._is_stopping:
                return
            self.stats["timer"] += 1
            if self.calls.reset_required:
                yield from self._reset()
            if (yield from self.calls.get_target()):
                change = self._change()
                if change > 0:
                    yield from self._inflation.run()
                elif change < 0:
                    yield from self._deflation.run()
            self._due_ns = self._kernel.scheduler.now_ns + PERIOD_NS

    def _change(self) -> int:
        """By how many frames the balloon is to change."""
        change = self.target_pages - self.actual_pages
        if self.calls.reset_required or self._is_stopping:
            return 0
        if change < 0 and self.target_pages and -change < SLACK_FRAMES:
            return 0
        if change > 0 and self._kernel.scheduler.now_ns < self._grows_from_ns:
            return 0
        return change

    def _reset(self) -> Job[None]:
        """Forget the host's pages, and begin anew; tried again a second later if that fails."""
        self.stats["reset"] += 1
        yield from self._exclude_others()
        yield from self._unset_doorbell()
        self.balloon.free_all()
        self.calls.free_batch_page()
        if (yield from self._introduce()):
            self.calls.reset_required = False
            yield from self._set_doorbell()
            yield from self.calls.send_guest_id()
        self._is_exclusive = False

    def _introduce(self) -> Job[bool]:
        """START; a driver that has no memory for batches takes it back."""
        if not (yield from self.calls.start(self._settings.wanted)):
            return False
        if self.calls.capabilities & Capability.BATCHED and not self.calls.allocate_batch_page():
            yield from self.calls.start(NO_CAPABILITIES)
            return False
        return True

    def _set_doorbell(self) -> Job[None]:
        if self.calls.capabilities & Capability.DOORBELL:
            self._has_doorbell = yield from self.calls.set_doorbell(*self._settings.doorbell)
            if not self._has_doorbell:
                yield from self._unset_doorbell()

    def _unset_doorbell(self) -> Job[None]:
        self._has_doorbell = False
        yield from self.calls.unset_doorbell()

    def _exclude_others(self) -> Job[None]:
        """Wait until no other task moves pages, and let none begin."""
        self._is_exclusive = True
        while self._users:
            yield self._unused

    @contextmanager
    def _use(self) -> Iterator[None]:
        """While another task moves pages."""
        self._users += 1
        self._unused.clear()
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                self._unused.set()
