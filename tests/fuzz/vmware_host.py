"""VMware's host with a guest that calls what it likes, and a model of what it has to answer.

The model is written the slow way: sets of pages, one entry after the other.  Memory that the host
drops must be the model's to drop at that moment, and what the host writes is nothing but statuses
in the batch page.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from tests.fuzz.script import Script
from tests.fuzz.setting import FindingError, RunInput
from tests.support.clock import FakeClock

from ballonet.balloon.inhibition import InhibitReason
from ballonet.memory.regions import Region, RegionTable
from ballonet.memory.runs import DiscardResult, Ranges
from ballonet.vmware.calls import ALL_CAPABILITIES, Capability, Command, Status
from ballonet.vmware.host import VmwareHost, VmwareHostSettings
from ballonet.vmware.lock_policy import RefusedPages

PAGE: Final = 4096
HUGE: Final = 512
#: A hole below 2 MiB, blocks with big host pages, a border that is no page's, and a far piece.
REGIONS: Final = ((0, 0x20000, PAGE), (0x200000, 0x600000, 0x10000), (0xA00000, 0x1800, PAGE))
END: Final = 0xA02000
STEPS_MAX: Final = 300
U32, U64 = 2**32 - 1, 2**64 - 1
NEEDS: Final = {2: 1, 3: 1, 6: 2, 7: 2, 8: 3, 9: 3, 10: 4}  # bit of the capability
PFNS: Final = (0, 5, 31, 32, 511, 512, 513, 1024, 1535, 1536, 2047, 2048, 2560, 2561, 2562)
BATCH_PFNS: Final = (1, 1, 1, 1, 1, 520, 31, 32, 2561, 2**20, 2**52 - 1, U64)
COUNTS: Final = (0, 512, 513, U32, U64, 2**63)


class VmwareHostFuzz(NamedTuple):
    """A `FuzzSetting`."""

    offered: int = int(ALL_CAPABILITIES)

    def __str__(self) -> str:
        return "vmware-host"

    @contextmanager
    def ready(self) -> Iterator[RunInput]:
        memory = memoryview(bytearray(END))

        def run(raw: bytes) -> frozenset[str]:
            machine = _Machine(memory, Script(raw), self.offered)
            try:
                machine.run()
            except Exception as error:
                raise FindingError(f"{type(error).__name__}: {error}") from error
            return frozenset(machine.trace)

        yield run


class _Memory:
    """Guest memory of which only the model is told what is dropped."""

    def __init__(self, memory: memoryview, check: Callable[[set[int]], None]) -> None:
        self.table = RegionTable(
            [Region(gpa, size, gpa + (1 << 40), gpa, page) for gpa, size, page in REGIONS]
        )
        self._memory, self._check = memory, check

    def view(self, gpa: int, length: int) -> memoryview:
        self.table.find(gpa, length)
        return self._memory[gpa : gpa + length]

    def discard(self, ranges: Ranges) -> DiscardResult:
        region = self.table.regions[ranges.region]
        for offset, length in zip(ranges.offsets.tolist(), ranges.lengths.tolist(), strict=True):
            assert offset % region.page_bytes == 0, "half a host page"
            assert 0 < length <= region.size - offset, "outside its region"
            first = (region.gpa + offset) // PAGE
            self._check(set(range(first, first + length // PAGE)))
        return DiscardResult(calls=1, discarded_bytes=ranges.total_bytes)


class _Model:
    """What the host should know."""

    def __init__(self) -> None:
        self.target = 0
        self.is_resetting = False
        self.refused_locks: dict[int, int] = {}
        self.refused_unlocks: dict[int, int] = {}
        self.forget()

    def forget(self) -> None:
        self.granted, self.is_resetting = 0, False
        self.single: set[int] = set()
        self.blocks: set[int] = set()
        self.droppable: set[int] = set()

    @property
    def actual(self) -> int:
        return len(self.single) + HUGE * len(self.blocks)

    @property
    def told_target(self) -> int:
        return min(self.target, U64 if self.granted & Capability.TARGET_64 else U32)

    def lock(self, head: int, pages: int) -> int:
        if not _is_memory(head, pages):
            return Status.PPN_INVALID
        mine = range(head, head + pages)
        if not self.single.isdisjoint(mine) or head & ~511 in self.blocks:
            self.droppable.difference_update(mine)
            return Status.PPN_LOCKED
        if refused := [pfn for pfn in self.refused_locks if pfn in mine]:
            return self.refused_locks[min(refused)]
        if self.actual >= self.target:
            return Status.PPN_NOTNEEDED
        (self.single if pages == 1 else self.blocks).add(head)
        self.droppable.update(mine)
        return Status.SUCCESS

    def unlock(self, head: int, pages: int) -> int:
        if not _is_memory(head, pages):
            return Status.PPN_INVALID
        held = self.single if pages == 1 else self.blocks
        if head not in held:
            return Status.PPN_UNLOCKED
        mine = range(head, head + pages)
        if refused := [pfn for pfn in self.refused_unlocks if pfn in mine]:
            return self.refused_unlocks[min(refused)]
        held.remove(head)
        self.droppable.difference_update(mine)
        return Status.SUCCESS


def _is_memory(head: int, pages: int) -> bool:
    """Of this guest; a block's last page decides, because no hole is smaller than one."""
    ends = (head, head + pages - 1)
    inside = [
        any(-(-gpa // PAGE) <= end < (gpa + size) // PAGE for gpa, size, _ in REGIONS)
        for end in ends
    ]
    return all(inside) and head % pages == 0


class _Machine:
    """One host, from its first guest to its end."""

    def __init__(self, memory: memoryview, script: Script, offered: int) -> None:
        self.trace: set[str] = set()
        self._ram, self._script, self._offered = memory, script, offered
        self._clock, self._model, self._policy = FakeClock(), _Model(), RefusedPages()
        settings = VmwareHostSettings(Capability(offered))
        self._host = VmwareHost(self._clock, settings, ring_doorbell=self._ring)
        self._host.policy = self._policy
        self._memory = _Memory(memory, self._check_discard)
        self._doorbell: tuple[int, int] | None = None
        self._is_inhibited = self._is_attached = False
        self._attach()

    def run(self) -> None:
        """Everything the script says. Raises: whatever the host should not."""
        self._call(Command.START, self._script.word() ^ self._offered, 0)
        for _ in range(STEPS_MAX):
            if self._script.is_over:
                break
            _OPERATIONS[self._script.byte() % len(_OPERATIONS)](self)
            assert self._host.actual_pages == self._model.actual, "another size"
            if self._is_attached:
                locked = set(self._host.locked.pfns.tolist())
                in_blocks = {pfn for head in self._model.blocks for pfn in range(head, head + HUGE)}
                assert locked == self._model.single | in_blocks, "other pages"
        self._host.detach()
        self.trace |= {f"refused {status.name}" for status in self._host.refusals}

    # What the guest does.

    def call_anything(self) -> None:
        self._call(*(self._script.word() for _ in range(3)))

    def start(self) -> None:
        self._call(Command.START, self._script.choose((0b111110, 0b111110, 0, 2, 6, 14, U64)), 0)

    def move_one(self) -> None:
        self._call(self._script.choose((2, 3)), self._pfn(), 1)

    def move_batch(self) -> None:
        """Whatever stands in the batch page, and some page numbers that make sense."""
        batch = self._script.choose(BATCH_PFNS)
        count = self._script.byte() % 24
        if count > 20:
            count = self._script.choose(COUNTS)
        if batch << 12 < END - PAGE:
            pfns = [self._pfn() for _ in range(min(count, 20))]
            words = [(pfn << 12 | self._script.byte() * (pfn & 1)) & U64 for pfn in pfns]
            self._ram[batch << 12 : (batch << 12) + 8 * len(words)] = struct.pack(
                f"<{len(words)}Q", *words
            )
        self._call(self._script.choose((6, 7, 8, 9)), batch, count)

    def move_run(self) -> None:
        """Adjacent pages, or blocks."""
        command, first = self._script.choose((6, 6, 7, 8, 8, 9)), self._pfn() & U32
        step = self._script.choose((1, HUGE)) if command < 8 else HUGE
        count = self._script.byte() % 40 + 1
        words = [(first + i * step) << 12 for i in range(count)]
        self._ram[PAGE : PAGE + 8 * count] = struct.pack(f"<{count}Q", *words)
        self._call(command, 1, count)

    # What the host does, and what becomes of the guest.

    def set_target(self) -> None:
        self._model.target = self._script.choose((0, 1, 20, 511, 513, 2000, 4000, 2**33, U64))
        self._rings_for(lambda: self._host.set_target(self._model.target))

    def refuse(self) -> None:
        status = self._script.choose((Status.PPN_PINNED, Status.BUSY, Status.PPN_INVALID))
        pfns = [self._pfn() & U32 for _ in range(self._script.byte() % 4)]
        if self._script.byte() & 1:
            self._policy.refuse_lock(pfns, status)
            self._model.refused_locks.update(dict.fromkeys(pfns, status))
        else:
            self._policy.refuse_unlock(pfns, status)
            self._model.refused_unlocks.update(dict.fromkeys(pfns, status))

    def allow(self) -> None:
        self._policy.allow()
        self._model.refused_locks.clear()
        self._model.refused_unlocks.clear()

    def reset_guest(self) -> None:
        self._model.is_resetting = True
        self._model.droppable.clear()
        self._rings_for(self._host.reset_guest)

    def drop(self) -> None:
        """All that waits is dropped, or a part of it if it is time."""
        self._clock.advance(self._script.choose((0.0, 0.002, 2.0)))
        if self._script.byte() & 1:
            self._host.given.flush()
            assert self._host.deadline_ns is None
        else:
            self._host.expired(busy=bool(self._script.byte() & 1))

    def inhibit(self) -> None:
        inhibition = self._host.given.inhibition
        step = inhibition.lift if self._is_inhibited else inhibition.inhibit
        step(InhibitReason.SNAPSHOT)
        self._is_inhibited = not self._is_inhibited

    def restart(self) -> None:
        self._host.detach()
        self._model.forget()
        self._doorbell, self._is_attached = None, False
        if self._script.byte() & 3:
            self._attach()

    def _attach(self) -> None:
        self._host.attach(self._memory)
        self._model.forget()
        self._doorbell, self._is_attached = None, True

    # How it is watched.

    def _call(self, command: int, arg1: int, arg2: int) -> None:
        page = (arg1 & U64) << 12
        has_page = command in (6, 7, 8, 9) and self._is_attached and self._is_batch_page(page)
        before = bytes(self._ram[page : page + PAGE]) if has_page else b""
        expected = self._expected(command, arg1 & U64, arg2 & U64, before)
        answer = self._host.call(command, arg1, arg2)
        self.trace.add(f"{command if command < 11 else 'none'}: {answer.status:#x}")
        assert (answer.status, answer.result) == expected[:2], f"{answer}, not {expected[:2]}"
        if has_page:
            after = expected[2] + before[len(expected[2]) :]
            assert bytes(self._ram[page : page + PAGE]) == after, "another batch page"

    def _is_batch_page(self, gpa: int) -> bool:
        return any(start <= gpa and gpa + PAGE <= start + size for start, size, _ in REGIONS)

    def _expected(self, command: int, arg1: int, arg2: int, page: bytes) -> tuple[int, int, bytes]:
        """Status, result, and the entries of the batch page that change."""
        model = self._model
        if command == Command.START:
            model.forget()
            self._doorbell = None
            model.granted = arg1 & self._offered
            if model.granted == Capability.BASIC:
                return Status.SUCCESS, 0, b""
            return Status.SUCCESS_WITH_CAPABILITIES, model.granted, b""
        if model.is_resetting:
            return Status.RESET, 0, b""
        is_known = command in set(Command)
        if not is_known or (command in NEEDS and not model.granted >> NEEDS[command] & 1):
            result = 0 if command == Command.VMCI_DOORBELL_SET else model.told_target
            return Status.CMD_INVALID, result, b""
        if command in (Command.GUEST_ID, Command.VMCI_DOORBELL_SET):
            if command == Command.VMCI_DOORBELL_SET:
                ids = arg1 & U32, arg2 & U32  # VMCI's have 32 bits, whatever the registers have
                self._doorbell = None if U32 in ids else ids
            return Status.SUCCESS, 0, b""
        if command == Command.GET_TARGET:
            return Status.SUCCESS, model.told_target, b""
        if command in (Command.LOCK, Command.UNLOCK):
            step = model.lock if command == Command.LOCK else model.unlock
            status = Status.PPN_INVALID if arg1 > U32 else self._step(step, arg1, 1)
            return status, model.told_target, b""
        return self._expected_batch(command, arg2, page)

    def _expected_batch(self, command: int, count: int, page: bytes) -> tuple[int, int, bytes]:
        model = self._model
        if not 0 < count <= 512:
            return Status.CMD_INVALID, model.told_target, b""
        if not page:
            return Status.PPN_INVALID, model.told_target, b""
        step = model.lock if command in (6, 8) else model.unlock
        pages = 1 if command in (6, 7) else HUGE
        words = []
        for (word,) in struct.iter_unpack("<Q", page[: 8 * count]):
            pfn = word >> 12
            words.append(pfn << 12 | self._step(step, pfn, pages))
        return Status.SUCCESS, model.told_target, struct.pack(f"<{count}Q", *words)

    def _step(self, step: Callable[[int, int], int], head: int, pages: int) -> int:
        return step(head, pages) if self._is_attached else Status.PPN_INVALID

    def _check_discard(self, pages: set[int]) -> None:
        self.trace.add("dropped")
        assert not self._is_inhibited, "discarded while inhibited"
        assert pages <= self._model.droppable, "pages that are not the host's"

    def _rings_for(self, action: Callable[[], None]) -> None:
        self._rung = False
        action()
        assert self._rung == (self._doorbell is not None), "the doorbell"

    def _ring(self, context: int, resource: int) -> None:
        assert (context, resource) == self._doorbell, "another doorbell"
        self._rung = True

    def _pfn(self) -> int:
        pfn = self._script.choose(PFNS) + (self._script.byte() & 3)
        return self._script.word() if self._script.byte() > 0xF0 else pfn


_M = _Machine
_OPERATIONS: Final[tuple[Callable[[_Machine], None], ...]] = (
    *(_M.call_anything, _M.call_anything, _M.start, _M.move_one, _M.move_one),
    *(_M.move_batch, _M.move_batch, _M.move_batch, _M.move_run, _M.move_run, _M.move_run),
    *(_M.set_target, _M.set_target, _M.refuse, _M.allow, _M.reset_guest),
    *(_M.drop, _M.drop, _M.inhibit, _M.restart),
)
