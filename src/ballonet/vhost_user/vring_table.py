"""The queues of one front-end, and the rings that run.

A ring runs while its size, addresses and kick descriptor are known, memory is there and it is
enabled.  Whenever one of these changes the ring is detached and, if all still hold, attached again
at the same place.
Not here: messages (requests), descriptors (connection.py).
Source: QEMU docs/interop/vhost-user.rst "Ring states".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from ballonet.balloon.facts import Kicked
from ballonet.device.balloon import Balloon
from ballonet.errors import SessionError
from ballonet.vhost_user.messages import LOG_ALL, PROTOCOL_FEATURES_BIT
from ballonet.vhost_user.vring import (
    FRESH_BASES,
    SessionMemory,
    Vring,
    areas_to_log,
    make_ring,
)
from ballonet.virtio.features import Feature
from ballonet.virtio.queues import QUEUE_COUNT, QueueRole
from ballonet.virtio.ring.notify import Fence

__all__ = ["ALL_QUEUES", "VringTable"]

ALL_QUEUES: Final = tuple(range(QUEUE_COUNT))


class VringTable:
    """What the front-end has said about each queue; those that are described in full run."""

    def __init__(
        self,
        balloon: Balloon,
        memory: SessionMemory,
        fence: Fence,
        mark_dirty: Callable[[int, int], None],
    ) -> None:
        """`mark_dirty`: note bytes, by guest-physical address, in the log of a migration."""
        self.vrings: Final = tuple(Vring() for _ in ALL_QUEUES)
        self.features = 0  #: as the front-end has set them, vhost-user's own among them
        self.to_serve: Final[set[int]] = set()  #: queues whose rings are to be looked at
        self._balloon, self._memory = balloon, memory
        self._fence, self._mark_dirty = fence, mark_dirty

    def get(self, request: str, queue: int) -> Vring:
        """One queue. Raises: SessionError, if there is none of this number."""
        if queue >= QUEUE_COUNT:
            raise SessionError(request, f"queue {queue} of {QUEUE_COUNT}")
        return self.vrings[queue]

    def kicked(self, queue: int) -> None:
        """The driver told of new chains."""
        if self._balloon.queues.is_attached(queue):
            self.to_serve.add(queue)
        if self._balloon.observers.want_details:
            self._balloon.observers.tell_detail(Kicked(self._balloon.queues.roles[queue]))

    def detach(self, queue: int) -> None:
        """Stop a ring where it stands."""
        self.to_serve.discard(queue)
        self.log_written(queue)
        base = self._balloon.detach(queue)
        if base is not None:
            self.vrings[queue].base = base

    def stop_all(self) -> None:
        """Stop every ring until it is set up anew."""
        for queue, vring in enumerate(self.vrings):
            self.detach(queue)
            vring.has_kick = False

    @contextmanager
    def paused(self, *queues: int) -> Iterator[None]:
        """Rings stand still inside the block, and run again after it if they can.

        Raises: SessionError, if one cannot; the others run.
        """
        for queue in queues:
            self.detach(queue)
        problem: SessionError | None = None
        try:
            yield
        finally:
            for queue in queues:
                try:
                    self._attach(queue)
                except SessionError as error:
                    problem = error
        if problem is not None:
            raise problem

    @property
    def is_packed(self) -> bool:
        """Packed rings were negotiated."""
        return Feature.RING_PACKED in self._balloon.negotiated

    @property
    def may_be_packed(self) -> bool:
        """They were, or still can be."""
        return self.is_packed or (
            not self._balloon.negotiated and Feature.RING_PACKED in self._balloon.settings.offered
        )

    def log_written(self, queue: int) -> None:
        """Log what may have been written to a running ring, if a migration wants to know.

        To be called after work on the ring and before anything else is done.
        """
        if self.features & LOG_ALL and self._balloon.queues.is_attached(queue):
            for area in areas_to_log(self.vrings[queue], self._memory, self._balloon.negotiated):
                self._mark_dirty(*area)

    def log_all_written(self) -> None:
        """The same for every ring."""
        for queue in ALL_QUEUES:
            self.log_written(queue)

    def _attach(self, queue: int) -> None:
        """Start a ring, if everything it needs is there. Raises: SessionError."""
        vring = self.vrings[queue]
        if not vring.enabled and self.features & PROTOCOL_FEATURES_BIT:
            return
        ring = make_ring(queue, vring, self._memory, self._balloon.negotiated, self._fence)
        if ring is not None:
            if self._balloon.queues.roles[queue] is QueueRole.INFLATE:
                self._balloon.config.recognise_driver(goes_on=ring.base not in FRESH_BASES)
            self._balloon.attach(queue, ring)
            self.to_serve.add(queue)  # what the driver put there before is looked at
