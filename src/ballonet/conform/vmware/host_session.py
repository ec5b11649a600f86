"""A guest of VMware's balloon that does what a check says, call by call.

It shares no code with our driver: entries of batch pages are written and read here.
Units: 4 KiB pages; a block is 512 of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from ballonet.conform.checks import Failed, expect
from ballonet.conform.device.marked_memory import MarkedMemory
from ballonet.units import BALLOON_PAGE_BYTES
from ballonet.vmware.calls import (
    ALL_CAPABILITIES,
    BATCH_ENTRIES_MAX,
    HUGE_PAGES,
    Answer,
    Capability,
    Command,
    Status,
)

__all__ = ["BLOCK_BYTES", "HostSession", "HostUnderTest", "status_name"]

BLOCK_BYTES: Final = HUGE_PAGES * BALLOON_PAGE_BYTES
_ENTRY_BYTES: Final = 8
_PFN_SHIFT: Final = 12
_STATUS_BITS: Final = 0x1F
_RESERVED_BITS: Final = 0xFE0
#: Of a host that has not been told of a target nothing can be locked.
_ROOM: Final = 1 << 20


class HostUnderTest(Protocol):
    """The other end of the calls, and what its operator does."""

    def call(self, command: int, arg1: int, arg2: int) -> Answer:
        """Answer a guest."""
        ...

    def set_target(self, pages: int) -> None:
        """Want so many pages in the balloon."""
        ...

    @property
    def actual_pages(self) -> int:
        """What the host believes to be in it."""
        ...

    def reset_guest(self) -> None:
        """Have the driver begin anew."""
        ...

    def pin(self, pfns: Sequence[int]) -> None:
        """Refuse to lock these pages from now on."""
        ...

    def keep(self, pfns: Sequence[int]) -> None:
        """Refuse to unlock these pages from now on."""
        ...

    def rings(self) -> list[tuple[int, int]]:
        """Each time a doorbell was rung: its context and resource."""
        ...

    def rest(self) -> None:
        """Let time pass until the host has nothing left to do."""
        ...


class HostSession:
    """One guest of one host, which wants more than any check gives."""

    def __init__(self, memory: MarkedMemory, host: HostUnderTest) -> None:
        self.memory: Final = memory
        self.host: Final = host
        self._batch_gpa = memory.allocate(BALLOON_PAGE_BYTES, BALLOON_PAGE_BYTES)
        host.set_target(_ROOM)

    @property
    def end_pfn(self) -> int:
        """The first page number that names no memory."""
        return self.memory.file.size // BALLOON_PAGE_BYTES

    @property
    def batch_pfn(self) -> int:
        """The batch page."""
        return self._batch_gpa // BALLOON_PAGE_BYTES

    def call(self, command: int, arg1: int = 0, arg2: int = 0) -> Answer:
        """Any call at all."""
        return self.host.call(command, arg1, arg2)

    def start(self, wanted: Capability = ALL_CAPABILITIES) -> Capability:
        """START; returns what is granted. Raises: Failed."""
        status, result = self.call(Command.START, int(wanted))
        if status == Status.SUCCESS:
            return Capability.BASIC
        if status != Status.SUCCESS_WITH_CAPABILITIES:
            raise Failed(f"START is answered {status_name(status)}")
        return Capability(result)

    def lock(self, pfn: int) -> int:
        """LOCK one page; its status."""
        return self.call(Command.LOCK, pfn, 1).status

    def unlock(self, pfn: int) -> int:
        """UNLOCK one page; its status."""
        return self.call(Command.UNLOCK, pfn, 1).status

    def batch(self, command: Command, pfns: Sequence[int]) -> list[int]:
        """A batched command; a status for each page. Raises: Failed, if it is refused as a whole.

        Also if the host has changed anything else in the batch page.
        """
        self.write_batch(pfns)
        status = self.call(command, self.batch_pfn, len(pfns)).status
        if status != Status.SUCCESS:
            raise Failed(f"{command.name} of {len(pfns)} is answered {status_name(status)}")
        words = self.batch_words()
        expect("page numbers afterwards", [w >> _PFN_SHIFT for w in words[: len(pfns)]], [*pfns])
        if any(word & _RESERVED_BITS for word in words[: len(pfns)]):
            raise Failed("bits 5 to 11 of an entry are set")
        if any(words[len(pfns) :]):
            raise Failed("an entry beyond those of the call was written")
        return [word & _STATUS_BITS for word in words[: len(pfns)]]

    def write_batch(self, pfns: Sequence[int]) -> None:
        """Fill the batch page: so many entries, and zeros."""
        raw = b"".join((pfn << _PFN_SHIFT).to_bytes(_ENTRY_BYTES, "little") for pfn in pfns)
        self.memory.write(self._batch_gpa, raw.ljust(BALLOON_PAGE_BYTES, b"\0"))

    def batch_words(self) -> list[int]:
        """All entries, as they are now."""
        raw = self.memory.read_page(self.batch_pfn)
        return [
            int.from_bytes(raw[i * _ENTRY_BYTES : (i + 1) * _ENTRY_BYTES], "little")
            for i in range(BATCH_ENTRIES_MAX)
        ]

    def need(self, granted: Capability, wanted: Capability) -> None:
        """Raises: Failed, if the host does not offer what a check is about."""
        if wanted & ~granted:
            raise Failed(f"{wanted & ~granted!r} is wanted and not granted")

    def must_keep(self, pfns: Sequence[int], why: str) -> None:
        """The guest writes these pages now, and they are its own for good. Raises: Failed."""
        for pfn in pfns:
            self.memory.write_page(pfn, salt=1)
        self.host.rest()
        lost = len(pfns) - len(self.memory.kept(pfns, salt=1))
        if lost:
            raise Failed(f"{lost} of {len(pfns)} pages are lost {why}")

    def must_drop(self, pfns: Sequence[int]) -> None:
        """The host has the memory of these pages, now or in a while. Raises: Failed."""
        self.host.rest()
        expect(f"pages of {len(pfns)} that are dropped", len(self.memory.emptied(pfns)), len(pfns))

    def works(self) -> str:
        """A page can be given and had back. Raises: Failed."""
        self.start(Capability.BASIC)
        (pfn,) = self.memory.pages(1)
        for name, status in (("lock", self.lock(pfn)), ("unlock", self.unlock(pfn))):
            if status != Status.SUCCESS:
                raise Failed(f"afterwards a {name} is answered {status_name(status)}")
        self.must_keep([pfn], "afterwards")
        return "it goes on to serve"


def status_name(status: int) -> str:
    """The word for a status, or its number."""
    return Status(status).name if status in set(Status) else f"{status:#x}"
