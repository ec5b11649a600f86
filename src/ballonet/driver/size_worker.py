"""The size worker: the balloon follows `num_pages`, a message at a time.

Pages are allocated without the lock, so that an allocation that runs out of memory may itself take
pages out of the balloon; one message is under way at any time.
Units: balloon pages on the wire, frames inside.  Source: VIRTIO 1.4 5.5.6.1; Linux
update_balloon_size_func, fill_balloon, leak_balloon, virtballoon_migratepage,
virtio_balloon_oom_notify.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from ballonet.driver.balloon_pages import BalloonPages
from ballonet.driver.queue import DriverQueue
from ballonet.driver.transport import Transport
from ballonet.kernel.frames import Frames, Use
from ballonet.kernel.kernel import Effort, Kernel
from ballonet.kernel.tasks import Flag, Job, Rest
from ballonet.units import BALLOON_PAGE_BYTES
from ballonet.virtio.config import ACTUAL, NUM_PAGES

__all__ = ["MESSAGE_PFNS", "RETRY_NS_MAX", "RETRY_NS_MIN", "SizeWorker"]

MESSAGE_PFNS: Final = 256  #: page numbers in one message, as Linux sends them
#: Between two tries to find memory: doubled each time, where Linux always waits the first.
RETRY_NS_MIN: Final = 200_000_000
RETRY_NS_MAX: Final = 5_000_000_000
_WORD: Final = 4


class SizeWorker:
    """The inflate and the deflate queue, and the pages between them."""

    def __init__(
        self,
        kernel: Kernel,
        transport: Transport,
        queues: tuple[DriverQueue, DriverQueue],
        buffer_gpa: int,
        *,
        hides_pages: bool,
    ) -> None:
        self.pages: Final = BalloonPages(kernel.table)
        self.out_of_puff = 0  #: times no page could be found
        self._kernel, self._transport = kernel, transport
        self._inflate_queue, self._deflate_queue = queues
        self._buffer_gpa = buffer_gpa  #: room for one message
        self._pages_per_frame = kernel.page_bytes // BALLOON_PAGE_BYTES
        self._message_frames = MESSAGE_PFNS // self._pages_per_frame
        self.wanted: Final = Flag()  #: the target may have changed, or is not reached
        self.retry_ns = RETRY_NS_MIN  #: to wait after the next time that no page is found
        self.retry_at_ns: int | None = None  #: when to try again after the last time
        self.hides_pages: Final = hides_pages
        self._free = Flag()
        self._free.set()
        self._is_stopping = False

    @property
    def actual_pages(self) -> int:
        """Balloon pages in the balloon."""
        return self.pages.count * self._pages_per_frame

    def wake(self) -> None:
        """The target may have changed."""
        self.wanted.set()

    def target_pages(self) -> int:
        """What the device asks for, rounded up to guest pages."""
        raw = self._transport.read_config(NUM_PAGES.start, _WORD)
        target = int.from_bytes(raw, "little")
        return -(-target // self._pages_per_frame) * self._pages_per_frame

    def run(self) -> Job[None]:
        """Follow the target until stopped; rests between two messages."""
        while True:
            yield Rest(self.wanted, self.retry_at_ns)
            self.wanted.clear()
            self.retry_at_ns = None
            if self._is_stopping:
                return
            diff = self.target_pages() - self.actual_pages
            if not diff:
                continue
            is_short = False
            if diff > 0:
                is_short = yield from self._fill(diff // self._pages_per_frame)
            else:
                yield from self.leak(-diff // self._pages_per_frame)
            self.write_actual()
            if is_short:
                self.out_of_puff += 1
                self.retry_at_ns = self._kernel.scheduler.now_ns + self.retry_ns
                self.retry_ns = min(2 * self.retry_ns, RETRY_NS_MAX)
            else:
                self.retry_ns = RETRY_NS_MIN
                self.wanted.set()

    def stop(self) -> Job[None]:
        """End the worker; returns when no message is under way."""
        self._is_stopping = True
        self.wanted.set()
        yield from self._lock()
        self._unlock()

    def write_actual(self) -> None:
        """Tell the device the size."""
        self._transport.write_config(ACTUAL.start, self.actual_pages.to_bytes(_WORD, "little"))

    def leak(self, count: int) -> Job[int]:
        """Take up to one message of frames back; returns how many."""
        yield from self._lock()
        try:
            frames = self.pages.pop(min(count, self._message_frames))
            if frames.size:
                yield from self._tell(self._deflate_queue, frames)
                self._account(-frames.size)
                self._kernel.counters.balloon_deflate += frames.size
                self._kernel.free(frames)
        finally:
            self._unlock()
        return int(frames.size)

    def leak_all(self) -> Job[None]:
        """Take everything back."""
        while self.pages.count:
            yield from self.leak(self._message_frames)
        self.write_actual()

    def notify_oom(self) -> Job[int]:
        """Give one message of frames to a kernel that would kill a process; returns how many."""
        freed = yield from self.leak(self._message_frames)
        self.write_actual()
        return freed

    def move(self, source: int, target: int) -> Job[bool]:
        """Let another frame take the place of one; False while a message is under way."""
        if not self._free.is_set:
            return False
        yield from self._lock()
        try:
            yield from self._tell(self._inflate_queue, np.array([target]))
            self.pages.replace(source, target)
            self._kernel.table.use[target] = Use.BALLOON
            yield from self._tell(self._deflate_queue, np.array([source]))
        finally:
            self._unlock()
        self._kernel.counters.balloon_migrate += 1
        self._kernel.free(np.array([source]))
        return True

    def _fill(self, count: int) -> Job[bool]:
        """Put up to one message of frames in; True if memory was short."""
        wanted = min(count, self._message_frames)
        parts: list[Frames] = []
        missing = wanted
        while missing:
            frames = yield from self._kernel.allocate(missing, Effort.ONCE, Use.HELD)
            if not frames.size:
                break
            parts.append(frames)
            missing -= frames.size
        if parts:
            frames = np.concatenate(parts)[::-1]
            yield from self._lock()
            try:
                yield from self._tell(self._inflate_queue, frames)
                self._kernel.table.use[frames] = Use.BALLOON
                self.pages.push(frames)
                self._account(frames.size)
                self._kernel.counters.balloon_inflate += frames.size
            finally:
                self._unlock()
        return missing > 0

    def _account(self, frames: int) -> None:
        if self.hides_pages:
            self._kernel.hidden_frames += frames

    def _tell(self, queue: DriverQueue, frames: Frames) -> Job[None]:
        """Send page numbers and wait until the device has used them."""
        pfns = frames[:, None] * self._pages_per_frame + np.arange(self._pages_per_frame)
        raw = pfns.astype("<u4").tobytes()
        self._kernel.memory.view(self._buffer_gpa, len(raw))[:] = raw
        yield from queue.wait(queue.send([(self._buffer_gpa, len(raw))]))

    def _lock(self) -> Job[None]:
        while not self._free.is_set:
            yield self._free
        self._free.clear()

    def _unlock(self) -> None:
        self._free.set()
