"""What is known of one front-end: the state that its messages change.

Not here: what each message does (requests), sockets, mappings and descriptors (connection.py).
Source: QEMU docs/interop/vhost-user.rst; the front-ends of User-Mode Linux, QEMU, crosvm and
Cloud Hypervisor.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from ballonet.device.balloon import Balloon
from ballonet.vhost_user.messages import LogArea, ProtocolFeature
from ballonet.vhost_user.vring import FdKind, SessionMemory
from ballonet.vhost_user.vring_table import ALL_QUEUES, VringTable
from ballonet.virtio.ring.notify import Fence

__all__ = ["FrontEndFds", "Session"]


class FrontEndFds(Protocol):
    """The descriptors that a front-end hands over; those that are not taken are closed."""

    def put_vring_fd(self, queue: int, kind: FdKind, fd: int | None) -> None:
        """Use a descriptor for a queue from now on; None: none. Raises: SystemCallError."""
        ...

    def set_channel(self, fd: int) -> None:
        """Send our own messages through a descriptor. Raises: SystemCallError."""
        ...

    def set_log(self, fd: int, area: LogArea) -> None:
        """Map the dirty log. Raises: MapError."""
        ...

    def mark_dirty(self, gpa: int, length: int) -> None:
        """Note bytes as written in the dirty log."""
        ...

    def send_state(self, fd: int, blob: bytes) -> None:
        """Begin to write a device's state. Raises: SessionError, SystemCallError."""
        ...

    def receive_state(self, fd: int) -> None:
        """Begin to read one. Raises: SessionError, SystemCallError."""
        ...

    def state_outcome(self) -> bytes:
        """What was read, by a transfer that has ended. Raises: SessionError, if it failed."""
        ...


@dataclass(slots=True)
class Session:
    """One connection's state."""

    balloon: Balloon
    memory: SessionMemory
    fds: FrontEndFds
    fence: Fence
    protocol: int = 0  #: vhost-user's own features that are in use
    status: int = 0
    is_loading: bool = False  #: a state of another device comes, or has come
    config_end: int = 0  #: how far into the configuration space it has reached, in bytes
    vrings: VringTable = field(init=False)
    inflate_messages_before: int = field(init=False)  #: of other sessions

    def __post_init__(self) -> None:
        self.vrings = VringTable(self.balloon, self.memory, self.fence, self.fds.mark_dirty)
        self.inflate_messages_before = self.balloon.counters.inflate_messages

    @property
    def acknowledges(self) -> bool:
        """Refusals can be told."""
        return bool(self.protocol & ProtocolFeature.REPLY_ACK)

    def reset(self) -> None:
        """Virtio reset: every ring is set up anew, the target stays."""
        self.vrings.stop_all()
        self.balloon.reset()

    def close(self) -> None:
        """The front-end is gone: stop every ring and forget its guest."""
        for queue in ALL_QUEUES:
            self.vrings.detach(queue)
        self.balloon.forget_guest()
