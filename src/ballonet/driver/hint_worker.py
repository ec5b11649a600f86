"""Free page hints: while the device asks, free blocks are taken and named to it.

The blocks stay taken until the device says DONE, or the kernel needs them.  The device tells of
nothing on this queue; what it has used is looked up when room is needed.
Source: VIRTIO 1.4 5.5.6.5; Linux report_free_page_func, send_free_pages, shrink_free_pages.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from ballonet.driver.queue import DriverQueue
from ballonet.driver.transport import Transport
from ballonet.kernel.buddy import MigrateType
from ballonet.kernel.frames import Use
from ballonet.kernel.kernel import Kernel
from ballonet.kernel.tasks import Flag, Job, Rest, Sleep
from ballonet.virtio.hint_ids import CMD_ID_DONE, CMD_ID_STOP

__all__ = ["HintWorker"]

_CMD_ID_AT: Final = 8
_WORD: Final = 4
_POLL_NS: Final = 200_000  # for room in the ring; Linux spins
_POLL_NS_MAX: Final = 10_000_000


class HintWorker:
    """The hint queue."""

    def __init__(
        self, kernel: Kernel, transport: Transport, queue: DriverQueue, buffer_gpa: int, order: int
    ) -> None:
        self.rounds = 0
        self.blocks: Final[list[int]] = []  #: first frames of what was hinted and is still held
        self._kernel, self._transport, self._queue = kernel, transport, queue
        self._buffer_gpa = buffer_gpa  #: room for two commands
        self._order = order
        self.changed: Final = Flag()  #: the device's id may have changed
        self.cmd_id = self.active_id = CMD_ID_STOP  #: of the device, and of the last round
        self.is_unread = False  #: the device's id must be read again

    def wake(self) -> None:
        """The device's id may have changed."""
        self.is_unread = True
        self.changed.set()

    def run(self) -> Job[None]:
        """Serve round after round, for ever."""
        while True:
            yield Rest(self.changed)
            self.changed.clear()
            cmd_id = self._current_id()
            if cmd_id == CMD_ID_DONE:
                self.release_blocks()
            elif cmd_id != CMD_ID_STOP and cmd_id != self.active_id:
                yield from self._serve_round(cmd_id)

    def release_blocks(self) -> int:
        """Use the hinted blocks again, whether the device knows or not; returns their frames."""
        size = 1 << self._order
        blocks, frames = list(self.blocks), len(self.blocks) * size
        self.blocks.clear()
        for head in blocks:
            self._kernel.free(np.arange(head, head + size))
        return frames

    def _current_id(self) -> int:
        if self.is_unread:
            self.is_unread = False
            raw = self._transport.read_config(_CMD_ID_AT, _WORD)
            self.cmd_id = int.from_bytes(raw, "little")
        return self.cmd_id

    def _serve_round(self, cmd_id: int) -> Job[None]:
        self.rounds += 1
        self.active_id = cmd_id
        yield from self._send_command(cmd_id, self._buffer_gpa)
        page = self._kernel.page_bytes
        while self._current_id() == cmd_id:
            self._queue.collect()
            self._queue.forget()
            if self._queue.ring.free_descriptors <= 1:
                yield Sleep(_POLL_NS)
                continue
            head = self._kernel.take_block(self._order, Use.HELD, MigrateType.MOVABLE)
            if head is None:
                break
            self._queue.send([], [(head * page, page << self._order)])
            self.blocks.append(head)
            yield None
        yield from self._send_command(CMD_ID_STOP, self._buffer_gpa + _WORD)
        self._queue.forget()

    def _send_command(self, word: int, gpa: int) -> Job[None]:
        """Send a word; its buffer must not be changed before the device has read it."""
        self._kernel.memory.view(gpa, _WORD)[:] = word.to_bytes(_WORD, "little")
        while not self._queue.ring.free_descriptors:
            self._queue.collect()
            self._queue.forget()
            yield Sleep(_POLL_NS)
        head, wait_ns = self._queue.send([(gpa, _WORD)]), _POLL_NS
        while self._queue.take_used(head) is None:
            yield Sleep(wait_ns)
            wait_ns = min(2 * wait_ns, _POLL_NS_MAX)
