"""What both ring formats share: flags of descriptors, limits, and the way to a checked chain.

Not here: where the next descriptor lies, which is what the formats differ in.
Source: VIRTIO 1.4 2.7.5 (split), 2.8.6 (packed); the flags are the same in both.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ballonet.errors import GuestMemoryError, RingError
from ballonet.virtio.ring.chain import Chain, GuestView, Piece

__all__ = [
    "CHAIN_MAX",
    "DESCRIPTOR_BYTES",
    "F_INDIRECT",
    "F_NEXT",
    "F_WRITE",
    "QUEUE_SIZE_MAX",
    "Descriptor",
    "IndirectTables",
    "make_chain",
]

QUEUE_SIZE_MAX: Final = 32768
#: Descriptors of one chain that are looked at, a bound on the work it can cause.  A longer queue
#: may have longer chains [2.7.5]; no driver of a balloon makes one, and QEMU has no longer queues.
CHAIN_MAX: Final = 1024
DESCRIPTOR_BYTES: Final = 16

F_NEXT: Final = 1  #: the chain goes on
F_WRITE: Final = 2  #: for the device to write
F_INDIRECT: Final = 4  #: not a buffer but a table of descriptors

#: Address, length in bytes and flags of one buffer, read once and not yet checked.
Descriptor = tuple[int, int, int]


class _LongChainError(Exception):
    """A chain has more than CHAIN_MAX descriptors; caught where the chain is made."""


def make_chain(head: int, descriptors: Iterable[Descriptor]) -> Chain:
    """Sort the buffers of a chain by who may write them; one that is too long is cut.

    Raises: RingError.
    """
    readable: list[Piece] = []
    writable: list[Piece] = []
    try:
        for number, (addr, length, flags) in enumerate(descriptors):
            if number == CHAIN_MAX:
                return Chain(head, (), (), is_cut=True)
            if length == 0:
                raise RingError(f"chain {head} has a descriptor of length 0")
            if flags & F_WRITE:
                writable.append((addr, length))
            elif writable:
                raise RingError(f"chain {head} has a readable descriptor after a writable one")
            else:
                readable.append((addr, length))
    except _LongChainError:
        return Chain(head, (), (), is_cut=True)
    return Chain(head, tuple(readable), tuple(writable))


@dataclass(frozen=True, slots=True)
class IndirectTables:
    """How a ring reads descriptors that lie outside of it."""

    memory: GuestView
    is_negotiated: bool
    queue_size: int

    def read(self, head: int, addr: int, length: int) -> bytes:
        """A copy of a table, so that the driver cannot change it under us.

        To be called while `make_chain` asks for the descriptors.  Raises: RingError.
        """
        if not self.is_negotiated:
            raise RingError(f"chain {head} is indirect, which was not negotiated")
        longest = DESCRIPTOR_BYTES * max(self.queue_size, CHAIN_MAX)
        if length == 0 or length % DESCRIPTOR_BYTES or length > longest:
            raise RingError(f"chain {head} has an indirect table of {length} bytes")
        if length > DESCRIPTOR_BYTES * CHAIN_MAX:
            raise _LongChainError
        try:
            return bytes(self.memory.view(addr, length))
        except GuestMemoryError as error:
            raise RingError(f"chain {head} has its indirect table outside memory") from error
