"""A host of VMware's balloon that keeps a record of its guest, and answers as a check likes.

What the script has no answer for our host answers, so that memory is dropped as it would be.
`audit` follows a record without knowing either end: what was the host's after each answer, by what
the guest was told.
Units: 4 KiB pages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from ballonet.balloon.clock import Clock
from ballonet.conform.checks import Failed
from ballonet.errors import GuestMemoryError
from ballonet.units import BALLOON_PAGE_BYTES, pages_to_bytes
from ballonet.vmware.calls import (
    ALL_CAPABILITIES,
    BATCH_ENTRIES_MAX,
    HUGE_PAGES,
    INVALID_ID,
    Answer,
    Call,
    Capability,
    Command,
    Status,
)
from ballonet.vmware.host import RingDoorbell, VmwareHost, VmwareHostSettings

__all__ = ["LOCKS", "UNLOCKS", "Said", "Script", "ScriptedHost", "audit", "removes_doorbell"]

#: What a host is to answer a call; None: what is right.
Script = Callable[["ScriptedHost", Call], Answer | None]

LOCKS: Final = (Command.LOCK, Command.BATCHED_LOCK, Command.BATCHED_2M_LOCK)
UNLOCKS: Final = (Command.UNLOCK, Command.BATCHED_UNLOCK, Command.BATCHED_2M_UNLOCK)
_SINGLE: Final = (Command.LOCK, Command.UNLOCK)
_BLOCKS: Final = (Command.BATCHED_2M_LOCK, Command.BATCHED_2M_UNLOCK)
_NEEDS: Final = {
    Command.LOCK: Capability.BASIC,
    Command.UNLOCK: Capability.BASIC,
    Command.BATCHED_LOCK: Capability.BATCHED,
    Command.BATCHED_UNLOCK: Capability.BATCHED,
    Command.BATCHED_2M_LOCK: Capability.BATCHED | Capability.BATCHED_2M,
    Command.BATCHED_2M_UNLOCK: Capability.BATCHED | Capability.BATCHED_2M,
}
_ENTRY_BYTES: Final = 8
_U32_MAX: Final = 0xFFFF_FFFF
_PFN_SHIFT: Final = 12
_LOW_BITS: Final = 0xFFF
_STATUS_BITS: Final = 0x1F


@dataclass(frozen=True, slots=True)
class Said:
    """One call and its answer."""

    at_ns: int
    call: Call
    answer: Answer
    words: tuple[int, ...]  #: entries of its batch, as the guest wrote them
    statuses: tuple[int, ...]  #: of them, as the guest finds them afterwards

    @property
    def command(self) -> int:
        """What was asked for."""
        return self.call.command

    @property
    def heads(self) -> list[int]:
        """The page numbers that it names."""
        if self.command in _SINGLE:
            return [self.call.arg1]
        return [word >> _PFN_SHIFT for word in self.words]

    @property
    def pages(self) -> int:
        """What each of them stands for: 1 page, or 512."""
        return HUGE_PAGES if self.command in _BLOCKS else 1

    @property
    def accepted(self) -> list[int]:
        """Those of them that the guest has to take for locked, or unlocked."""
        if self.answer.status != Status.SUCCESS:
            return []
        if self.command in _SINGLE:
            return self.heads
        pairs = zip(self.heads, self.statuses, strict=True)
        return [head for head, status in pairs if status == Status.SUCCESS]

    @property
    def accepted_pages(self) -> set[int]:
        """Each page of 4 KiB of them."""
        return {head + i for head in self.accepted for i in range(self.pages)}


class ScriptedHost(VmwareHost):
    """Answers by its script, where that has an answer."""

    def __init__(
        self, clock: Clock, offered: Capability = ALL_CAPABILITIES, ring: RingDoorbell | None = None
    ) -> None:
        super().__init__(clock, VmwareHostSettings(offered), ring_doorbell=ring)
        self.record: Final[list[Said]] = []
        self._script: Script | None = None
        self._clock = clock

    def play(self, script: Script | None) -> None:
        """Answer by a script from now on; None: be right."""
        self._script = script

    def call(self, command: int, arg1: int, arg2: int) -> Answer:
        """Answer, and remember what was said."""
        call = Call(command, arg1, arg2)
        words = self._entries(call)
        answer = None if self._script is None else self._script(self, call)
        if answer is None:
            answer = super().call(command, arg1, arg2)
        statuses = tuple(word & _STATUS_BITS for word in self._entries(call))
        self.record.append(Said(self._clock.now_ns(), call, answer, words, statuses))
        return answer

    def start_honestly(self, call: Call) -> None:
        """For a script that answers START otherwise: let our host know of the driver."""
        super().call(*call)

    def write_entries(self, call: Call, words: Sequence[int]) -> None:
        """Put anything into the batch page of a call, from its first entry on."""
        page = self._page(call)
        raw = b"".join(word.to_bytes(_ENTRY_BYTES, "little") for word in words)
        if page is not None:
            page[: len(raw)] = raw

    def write_statuses(self, call: Call, status: int) -> None:
        """Give every page of a batch the same verdict."""
        words = self._entries(call)
        self.write_entries(call, [word & ~_STATUS_BITS | status for word in words])

    def said(self, *commands: Command, start: int = 0) -> list[Said]:
        """Calls of some kinds, from a place in the record on."""
        return [one for one in self.record[start:] if one.command in commands]

    def scribble(self, pfns: Iterable[int]) -> None:
        """Write on pages that are the host's, after all that waits has been dropped."""
        self.given.flush()
        for pfn in pfns:
            self._view(pfn)[:] = _scribbled(pfn)

    def is_scribbled(self, pfn: int) -> bool:
        """Nobody has written on a page since."""
        return bytes(self._view(pfn)) == _scribbled(pfn)

    def _entries(self, call: Call) -> tuple[int, ...]:
        page = self._page(call)
        count = min(call.arg2, BATCH_ENTRIES_MAX)
        if page is None:
            return ()
        return tuple(
            int.from_bytes(page[i * _ENTRY_BYTES : (i + 1) * _ENTRY_BYTES], "little")
            for i in range(count)
        )

    def _page(self, call: Call) -> memoryview | None:
        if call.command not in (*LOCKS, *UNLOCKS) or call.command in _SINGLE:
            return None
        try:
            return self._view(call.arg1)
        except GuestMemoryError:
            return None

    def _view(self, pfn: int) -> memoryview:
        memory = self.given.memory
        if memory is None:
            raise GuestMemoryError(pages_to_bytes(pfn), BALLOON_PAGE_BYTES)
        return memory.view(pages_to_bytes(pfn), BALLOON_PAGE_BYTES)


def removes_doorbell(call: Call) -> bool:
    """It sets the doorbell to none: to ids that are -1, of 32 bits or of as many as there are."""
    ids = (one & _U32_MAX for one in (call.arg1, call.arg2))
    return call.command == Command.VMCI_DOORBELL_SET and INVALID_ID in ids


def audit(record: Iterable[Said], memory_pages: int) -> set[int]:
    """Every page that is the host's by what the guest was told.

    Raises: Failed, at the first call that no guest may make.
    """
    state = _Audit(memory_pages)
    for said in record:
        state.follow(said)
    return state.locked


class _Audit:
    """What a guest must know, after each answer."""

    def __init__(self, memory_pages: int) -> None:
        self.locked: set[int] = set()
        self._memory_pages = memory_pages
        self._granted: Capability | None = None  # None: it has to START
        self._has_begun = False  # with this host, of which it may not know before

    def follow(self, said: Said) -> None:
        if said.command == Command.START:
            self._start(said)
        elif said.command in _NEEDS:
            self._check(said)
            self._move(said)
        elif said.command == Command.VMCI_DOORBELL_SET:
            self._check_doorbell(said)
        elif said.command not in (Command.GET_TARGET, Command.GUEST_ID):
            raise Failed(f"there is no command {said.command}")
        if said.answer.status == Status.RESET:
            self.locked.clear()
            self._granted = None

    def _start(self, said: Said) -> None:
        wanted = Capability(said.call.arg1)
        self.locked.clear()
        self._has_begun = True
        self._granted = None
        if said.answer.status == Status.SUCCESS:
            self._granted = Capability.BASIC
        elif said.answer.status == Status.SUCCESS_WITH_CAPABILITIES:
            self._granted = Capability(said.answer.result & int(wanted))

    def _check(self, said: Said) -> None:
        name = Command(said.command).name
        if not self._has_begun and said.answer.status == Status.RESET:
            return
        if self._granted is None:
            raise Failed(f"{name} before START, or after RESET")
        if _NEEDS[Command(said.command)] & ~self._granted:
            raise Failed(f"{name} was not granted")
        if said.command not in _SINGLE and not 0 < said.call.arg2 <= BATCH_ENTRIES_MAX:
            raise Failed(f"{name} of {said.call.arg2} entries")
        if any(word & _LOW_BITS for word in said.words):
            raise Failed(f"{name} with bits 0 to 11 of an entry set")
        heads = said.heads
        if len(set(heads)) != len(heads):
            raise Failed(f"{name} names a page twice")
        if any(head + said.pages > self._memory_pages or head % said.pages for head in heads):
            raise Failed(f"{name} names what is no page of the guest's")
        named = {head + i for head in heads for i in range(said.pages)}
        if said.command in LOCKS and named & self.locked:
            raise Failed(f"{len(named & self.locked)} pages are given that are the host's")
        if said.command in UNLOCKS and named - self.locked:
            raise Failed(f"{len(named - self.locked)} pages are asked for that were not given")

    def _move(self, said: Said) -> None:
        if said.command in LOCKS:
            self.locked |= said.accepted_pages
        else:
            self.locked -= said.accepted_pages

    def _check_doorbell(self, said: Said) -> None:
        if not removes_doorbell(said.call) and (
            self._granted is None or not self._granted & Capability.DOORBELL
        ):
            raise Failed("a doorbell is set that was not granted")


def _scribbled(pfn: int) -> bytes:
    return (pfn << 8 | 0xE5).to_bytes(8, "little") * (BALLOON_PAGE_BYTES // 8)
