"""The rings of a front-end's driver: what a back-end is told of them, and where they stand.

Owns their eventfds.  Rings are in guest memory, so a back-end that comes after one that was lost
goes on where that one stopped: at what it showed as used last.
Source: QEMU docs/interop/vhost-user.rst "Ring states", "Migration".
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NamedTuple

from ballonet.errors import GuestError
from ballonet.memory.dirty_log import OwnDirtyLog
from ballonet.memory.regions import Region
from ballonet.runtime.event_loop import Watcher
from ballonet.runtime.eventfds import signal_eventfd
from ballonet.vhost_user.back_end_link import BackEndLink, BackEndLostError
from ballonet.vhost_user.messages import (
    LOG_ALL,
    PROTOCOL_FEATURES_BIT,
    U64,
    LogArea,
    Request,
    VringAddresses,
    VringState,
    pack_mem_table,
)
from ballonet.virtio.features import Feature
from ballonet.virtio.ring.driver import DriverRing
from ballonet.virtio.ring.packed import packed_area_bytes
from ballonet.virtio.ring.split import split_area_bytes

__all__ = ["FrontEndRings", "SharedRegion"]

_LOG_USED: Final = 1  # flag of the addresses
_NO_LOG: Final = (1 << 64) - 1


class SharedRegion(NamedTuple):
    """Guest memory, and the file it lies in."""

    region: Region
    fd: int


@dataclass(slots=True)
class _Queue:
    ring: DriverRing
    kick_fd: int
    call_fd: int
    stopped_at: int | None = None  # where its back-end stopped; None: where it was used last


class FrontEndRings:
    """All rings of one driver."""

    def __init__(
        self,
        watcher: Watcher,
        link: BackEndLink,
        memory: Sequence[SharedRegion],
        called: Callable[[int], None],
    ) -> None:
        self._watcher, self._link, self._called = watcher, link, called
        self._memory = tuple(memory)
        self._queues: dict[int, _Queue] = {}
        self._log: OwnDirtyLog | None = None
        self.features = 0  #: that the driver accepted
        self.are_running = False  #: a back-end that is there serves them

    @property
    def end_gpa(self) -> int:
        """Where the guest's memory ends."""
        return max((shared.region.gpa + shared.region.size for shared in self._memory), default=0)

    def add(self, queue: int, ring: DriverRing) -> None:
        """One more ring, before they start."""
        flags = os.EFD_NONBLOCK | os.EFD_CLOEXEC
        entry = _Queue(ring, os.eventfd(0, flags), os.eventfd(0, flags))
        self._queues[queue] = entry
        # Told of each write and never read: the back-end shares it, and a read could wait.
        self._watcher.register(entry.call_fd, lambda: self._called(queue), edge=True)

    def kick(self, queue: int) -> None:
        """Tell the device of new chains; one that is away will look for itself."""
        signal_eventfd(self._queues[queue].kick_fd)

    def look_everywhere(self) -> None:
        """Either side may have missed something: both look at every ring."""
        for queue in self._queues:
            self.kick(queue)
            self._called(queue)

    def tell_features(self) -> None:
        """What the driver accepted, and whether writes are to be logged. Raises: GuestError."""
        log = LOG_ALL if self._log is not None else 0
        features = self.features | PROTOCOL_FEATURES_BIT | log
        self._link.tell(Request.SET_FEATURES, U64.pack(features))

    def start(self, *, is_new: bool) -> None:
        """Share the memory, the log, and every ring; features too, unless the driver is new.

        Raises: GuestError; BackEndLostError, and then the next back-end is to be given them.
        """
        self.are_running = True
        if self._log is not None or not is_new:
            self.tell_features()
        table = pack_mem_table([shared.region for shared in self._memory])
        self._link.tell(Request.SET_MEM_TABLE, table, [shared.fd for shared in self._memory])
        self._tell_log()
        for number, queue in self._queues.items():
            self._start_one(number, queue)

    def stop(self) -> None:
        """Let the device stop at every ring, having written all it writes. Raises: GuestError.

        If it is lost meanwhile nothing serves them either; the rings say where to go on.
        """
        self.are_running = False  # one that comes again meanwhile is not given them
        for number, queue in self._queues.items():
            try:
                answer = self._link.ask_once(Request.GET_VRING_BASE, VringState(number, 0).pack())
            except BackEndLostError:
                queue.stopped_at = queue.ring.base
                continue
            answered, base = VringState.parse(answer)
            if answered != number:
                raise GuestError(f"the device answers GET_VRING_BASE of {number} with {answered}")
            queue.stopped_at = base

    def set_log(self, log: OwnDirtyLog) -> None:
        """Have what the device writes marked. Raises: GuestError."""
        self._log = log
        if self.are_running:  # or it is told when they start
            self._tell_log()
            self._tell_whether_logged()

    def forget_log(self) -> None:
        """Have nothing marked any more; a device that is away needs no telling.

        Raises: GuestError.
        """
        self._log = None
        if self.are_running and self._link.is_connected:
            with suppress(BackEndLostError):
                self._tell_whether_logged()

    def mark_all(self) -> None:
        """A back-end was lost, perhaps between a write and its mark: mark all it may write to."""
        if self._log is None:
            return
        for queue in self._queues.values():
            sizes = self._area_bytes(queue.ring.size)
            for gpa, length in zip(queue.ring.place, sizes, strict=True):
                self._log.mark(gpa, length)

    def drop(self) -> None:
        """Forget them."""
        self.are_running = False
        for queue in self._queues.values():
            self._watcher.unregister(queue.call_fd)
            os.close(queue.kick_fd)
            os.close(queue.call_fd)
        self._queues.clear()

    def _start_one(self, number: int, queue: _Queue) -> None:
        ring, base = queue.ring, queue.stopped_at
        base = ring.base if base is None else base
        self._link.tell(Request.SET_VRING_NUM, VringState(number, ring.size).pack())
        self._link.tell(Request.SET_VRING_BASE, VringState(number, base).pack())
        self._link.tell(Request.SET_VRING_ADDR, self._addresses(number, ring).pack())
        self._link.tell(Request.SET_VRING_CALL, U64.pack(number), [queue.call_fd])
        queue.stopped_at = None  # it may run from here on, and only the ring says how far it came
        self._link.tell(Request.SET_VRING_KICK, U64.pack(number), [queue.kick_fd])
        self._link.tell(Request.SET_VRING_ENABLE, VringState(number, 1).pack())

    def _tell_whether_logged(self) -> None:
        self.tell_features()
        for number, queue in self._queues.items():
            self._link.tell(Request.SET_VRING_ADDR, self._addresses(number, queue.ring).pack())

    def _tell_log(self) -> None:
        """Where the log is; what a back-end answers to that says nothing."""
        if self._log is not None:
            area = LogArea(self._log.size, 0).pack()
            self._link.ask_once(Request.SET_LOG_BASE, area, [self._log.fd])

    def _area_bytes(self, size: int) -> tuple[int, int, int]:
        """Of a ring's three areas, in the order of its place."""
        is_packed = self.features & Feature.RING_PACKED
        return packed_area_bytes(size) if is_packed else split_area_bytes(size)

    def _addresses(self, number: int, ring: DriverRing) -> VringAddresses:
        desc, avail, used = (self._uva(gpa) for gpa in ring.place)
        flags, log = (0, _NO_LOG) if self._log is None else (_LOG_USED, ring.place.used)
        return VringAddresses(number, flags, desc, used, avail, log)

    def _uva(self, gpa: int) -> int:
        for region, _ in self._memory:
            if region.gpa <= gpa < region.gpa + region.size:
                return region.uva + gpa - region.gpa
        raise GuestError(f"{gpa:#x} is no guest memory")
