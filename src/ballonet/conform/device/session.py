"""One driver's session with the device under test, with every lever a check needs.

Not here: the guest's memory, and what is in its pages (marked_memory.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from ballonet.conform.checks import Failed, NotApplicable
from ballonet.conform.device.marked_memory import MarkedMemory
from ballonet.conform.device.raw_ring import RawSplitRing
from ballonet.driver.transport import Transport
from ballonet.memory.fence import full_fence
from ballonet.virtio.features import Feature
from ballonet.virtio.queues import QueueLayout, QueueRole, queue_roles
from ballonet.virtio.ring.chain import Piece
from ballonet.virtio.ring.driver import DriverRing, Used
from ballonet.virtio.ring.packed_driver import PackedDriverRing, packed_place, packed_ring_bytes
from ballonet.virtio.ring.split_driver import split_place, split_ring_bytes

__all__ = ["DeviceSession", "Heard"]

#: For hangs alone: a busy machine is no fault of a device.
_ANSWER_S: Final = 20.0
_QUIET_S: Final = 0.3
_TURN_S: Final = 0.005


@dataclass(slots=True)
class Heard:
    """What the device has said."""

    calls: dict[int, int] = field(default_factory=dict)
    config_changes: int = 0


class DeviceSession:
    """A driver that sends exactly what a check specifies."""

    def __init__(
        self,
        transport: Transport,
        memory: MarkedMemory,
        heard: Heard,
        pump: Callable[[float], None],
    ) -> None:
        self.transport: Final = transport
        self.memory: Final = memory
        self.heard: Final = heard
        self.offered = 0
        self.negotiated = Feature(0)
        self.rings: dict[QueueRole, DriverRing] = {}
        self.numbers: dict[QueueRole, int] = {}
        self._pump = pump
        self._done: dict[tuple[QueueRole, int], Used] = {}

    def begin(self, wanted: Feature, layout: QueueLayout = QueueLayout.DENSE) -> None:
        """Initialise the device with what it offers of the wanted features."""
        self.offered = offered = self.transport.offered()
        self.negotiated = Feature(0)
        for bit in Feature:
            if offered & wanted & bit:
                self.negotiated |= bit
        self.transport.accept(int(self.negotiated))
        for number, role in enumerate(queue_roles(self.negotiated, layout)):
            if role is not None:
                self.numbers[role] = number
                self.rings[role] = self._make_ring(number)
                self.transport.set_queue(number, self.rings[role])
        self.transport.driver_ok()

    def need(self, *features: Feature) -> None:
        """Raises: NotApplicable, unless these were negotiated."""
        for feature in features:
            if feature not in self.negotiated:
                raise NotApplicable(f"the device does not offer {feature.name}")

    def raw(self, role: QueueRole) -> RawSplitRing:
        """A ring on which anything can be written. Raises: NotApplicable."""
        ring = self.rings[role]
        if not isinstance(ring, RawSplitRing):
            raise NotApplicable("the rings are packed")
        return ring

    def post(
        self, role: QueueRole, readable: Sequence[Piece], writable: Sequence[Piece] = ()
    ) -> int:
        """Make a chain available and kick; returns its head."""
        head = self.rings[role].add(readable, writable)
        self.rings[role].publish()
        self.kick(role)
        return head

    def send(
        self, role: QueueRole, readable: Sequence[Piece], writable: Sequence[Piece] = ()
    ) -> Used:
        """Make a chain available and wait until it is used. Raises: Failed."""
        return self.wait_used(role, self.post(role, readable, writable))

    def inflate(self, pfns: Sequence[int]) -> Used:
        """Give pages. Raises: Failed."""
        return self.send(QueueRole.INFLATE, [self.memory.pfn_message(pfns)])

    def deflate(self, pfns: Sequence[int]) -> Used:
        """Take pages back. Raises: Failed."""
        return self.send(QueueRole.DEFLATE, [self.memory.pfn_message(pfns)])

    def wait_used(self, role: QueueRole, head: int) -> Used:
        """Wait for a chain. Raises: Failed."""
        if not self.until(lambda: self.is_used(role, head)):
            raise Failed(
                f"a chain of the {role.name.lower()} queue is not answered in {_ANSWER_S:.0f} s"
            )
        return self._done.pop((role, head))

    def is_used(self, role: QueueRole, head: int) -> bool:
        """The device has returned a chain."""
        for used in self.rings[role].collect():
            self._done[role, used.head] = used
        return (role, head) in self._done

    def kick(self, role: QueueRole) -> None:
        """Tell the device to look."""
        self.transport.kick(self.numbers[role])

    def until(self, condition: Callable[[], bool], seconds: float = _ANSWER_S) -> bool:
        """Wait for something; False if it does not come."""
        end_s = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end_s:
                return False
            self._pump(_TURN_S)
        return True

    def rest(self, seconds: float = _QUIET_S) -> None:
        """Let the device do what it wants to do unasked."""
        self.until(lambda: False, seconds)

    def calls(self, role: QueueRole) -> int:
        """How often the device has called for a queue."""
        return self.heard.calls.get(self.numbers[role], 0)

    def works(self) -> str:
        """Evidence that the device lives: it inflates a page. Raises: Failed."""
        (pfn,) = self.memory.pages(1)
        self.inflate([pfn])
        return "it goes on to serve"

    def _make_ring(self, number: int) -> DriverRing:
        size = self.transport.queue_size(number)
        if not size:
            raise Failed(f"the device has no queue {number}")
        event_idx = Feature.EVENT_IDX in self.negotiated
        if Feature.RING_PACKED in self.negotiated:
            gpa = self.memory.allocate(packed_ring_bytes(size), 4096)
            return PackedDriverRing(
                self.memory, packed_place(gpa, size), size, full_fence, event_idx=event_idx
            )
        align = self.transport.used_align
        gpa = self.memory.allocate(split_ring_bytes(size, align), 4096)
        place = split_place(gpa, size, align)
        return RawSplitRing(self.memory, place, size, full_fence, event_idx=event_idx)
