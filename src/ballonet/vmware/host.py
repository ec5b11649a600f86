"""VMware's end of the balloon: what it answers to each call of a driver.

Theory of operation.  The driver asks, once a second or when it is woken by its doorbell, and hears
the target in every answer.  It locks pages, which are the host's then, and unlocks them; each page
has a verdict of its own.  A host that wants a new beginning answers RESET to everything until the
driver STARTs again.
A page is given only after its verdict, and taken back before the call that unlocks it is answered.
A driver that hears RESET frees its pages and says nothing, as does one that is gone: so all are
taken back when a reset is asked for, and when any driver STARTs.  A page that is locked twice may
be the guest's, whatever the first lock said, and is not dropped any more.
Beyond the target nothing is needed: a page is locked only while fewer are than the target says.
One of 2 MiB may overshoot it, because Linux's driver rounds up.
Not here: which pages are locked (locked_pages), which can be (verdicts, lock_policy), their memory
(balloon.given_memory), what carries calls (siblings).
Units: 4 KiB balloon pages.  Source: Linux drivers/misc/vmw_balloon.c, which is the other end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from ballonet.balloon.clock import Clock
from ballonet.balloon.facts import ActualChanged, PagesRejected
from ballonet.balloon.given_memory import GivenMemory
from ballonet.balloon.memory import BalloonMemory
from ballonet.balloon.request import TargetRequest
from ballonet.errors import GuestMemoryError
from ballonet.memory.regions import RegionTable
from ballonet.units import BALLOON_PAGE_BYTES, pages_to_bytes
from ballonet.virtio.queues import QueueRole
from ballonet.vmware.calls import (
    ALL_CAPABILITIES,
    BATCH_ENTRIES_MAX,
    BATCH_ENTRY_BYTES,
    COMMAND_NAMES,
    HUGE_PAGES,
    INVALID_ID,
    NO_CAPABILITIES,
    Answer,
    Capability,
    Command,
    PageStatuses,
    Pfns,
    Status,
    capability_names,
    page_pfns,
    pfns_of,
    with_statuses,
)
from ballonet.vmware.lock_policy import LockPolicy, RefusedPages
from ballonet.vmware.locked_pages import LockedPages
from ballonet.vmware.verdicts import verdicts_on_lock, verdicts_on_unlock

__all__ = ["RingDoorbell", "VmwareHost", "VmwareHostSettings"]

#: Wakes the driver by the context and the resource that it named.
RingDoorbell = Callable[[int, int], None]

_U32_MAX: Final = 0xFFFF_FFFF
_U64_MAX: Final = 0xFFFF_FFFF_FFFF_FFFF
_NO_MEMORY: Final = RegionTable([])

#: What a command needs to have been granted; the others are always there.
_NEEDS: Final[Mapping[Command, Capability]] = {
    Command.LOCK: Capability.BASIC,
    Command.UNLOCK: Capability.BASIC,
    Command.BATCHED_LOCK: Capability.BATCHED,
    Command.BATCHED_UNLOCK: Capability.BATCHED,
    Command.BATCHED_2M_LOCK: Capability.BATCHED_2M,
    Command.BATCHED_2M_UNLOCK: Capability.BATCHED_2M,
    Command.VMCI_DOORBELL_SET: Capability.DOORBELL,
}
_LOCKS: Final = (Command.LOCK, Command.BATCHED_LOCK, Command.BATCHED_2M_LOCK)
_OF_BLOCKS: Final = (Command.BATCHED_2M_LOCK, Command.BATCHED_2M_UNLOCK)


@dataclass(frozen=True, slots=True)
class VmwareHostSettings:
    """What is fixed for the life of a host."""

    offered: Capability = ALL_CAPABILITIES


@dataclass(slots=True)
class _Driver:
    """What one driver has said."""

    has_started: bool = False
    granted: Capability = NO_CAPABILITIES
    doorbell: tuple[int, int] | None = None
    guest_id: int | None = None
    limit_pages: int | None = None  #: of the guest's memory


class VmwareHost:
    """One host, of one guest after another; a `SiblingHost`, for one thread."""

    def __init__(
        self, clock: Clock, settings: VmwareHostSettings, *, ring_doorbell: RingDoorbell | None
    ) -> None:
        self.kind: Final = "vmware"
        self.given: Final = GivenMemory(clock)
        self.request: Final = TargetRequest(clock)
        self.policy: LockPolicy = RefusedPages()
        self.calls: Final[Counter[Command]] = Counter()  #: that there are, by command
        self.refusals: Final[Counter[Status]] = Counter()  #: pages not locked or unlocked, by why
        self.broken: str | None = None
        self._offered = settings.offered
        if ring_doorbell is None:
            self._offered &= ~Capability.DOORBELL
        self._ring_doorbell = ring_doorbell
        self._target_pages = 0
        self._table = _NO_MEMORY
        self.locked = LockedPages(self._table)
        self._forget_driver()

    @property
    def target_pages(self) -> int:
        """See `SiblingHost`."""
        return self._target_pages

    @property
    def actual_pages(self) -> int:
        """Pages that are locked."""
        return self.locked.total_pages

    @property
    def is_running(self) -> bool:
        """A driver has STARTed, and is not to begin anew."""
        return self._driver.has_started and not self._is_resetting

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What was granted."""
        return capability_names(self._driver.granted)

    @property
    def deadline_ns(self) -> int | None:
        """When what waits wants to be dropped; the protocol has no timers of the host's."""
        return self.given.deadline_ns

    def attach(self, memory: BalloonMemory) -> None:
        """See `SiblingHost`."""
        self.given.attach(memory)
        self._table = memory.table
        self._forget_driver()

    def detach(self) -> None:
        """See `SiblingHost`."""
        self.given.detach()
        self._table = _NO_MEMORY
        self._forget_driver()

    def set_target(self, pages: int) -> None:
        """See `SiblingHost`."""
        self._target_pages = pages
        self.request.ask(pages, self.actual_pages)
        self._wake_driver()

    def reset_guest(self) -> None:
        """Have the driver begin anew: every call but START is answered RESET from now on."""
        self.given.take_back_all()
        self._is_resetting = True
        self._wake_driver()

    def expired(self, *, busy: bool = False) -> bool:
        """See `SiblingHost`."""
        return self.given.work(busy=busy)

    def describe(self) -> dict[str, object]:
        """See `SiblingHost`."""
        return {
            "capabilities": list(self.capabilities),
            "is-resetting": self._is_resetting,
            "guest-id": self._driver.guest_id,
            "limit-pages": self._driver.limit_pages,
            "doorbell": self._driver.doorbell is not None,
            "locked-pages": self.locked.small,
            "locked-blocks": self.locked.blocks,
            "calls": {COMMAND_NAMES[one]: self.calls[one] for one in sorted(self.calls)},
            "refused": {one.name: self.refusals[one] for one in sorted(self.refusals)},
        }

    def call(self, command: int, arg1: int, arg2: int) -> Answer:
        """Do what a driver asks for, in registers of 64 bits; never fails."""
        known = Command(command) if command in COMMAND_NAMES else None
        arg1, arg2 = arg1 & _U64_MAX, arg2 & _U64_MAX
        if known is not None:
            self.calls[known] += 1
        if known is Command.START:
            return self._start(arg1)
        if self._is_resetting:
            return Answer(Status.RESET, 0)
        if known is None:
            return self._break(f"there is no command {command}")
        if _NEEDS.get(known, NO_CAPABILITIES) & ~self._driver.granted:
            return self._refuse_command(known)
        match known:
            case Command.GET_TARGET:
                self._driver.limit_pages = arg1
                return self._answer(Status.SUCCESS)
            case Command.GUEST_ID:
                self._driver.guest_id = arg1
                return Answer(Status.SUCCESS, 0)
            case Command.VMCI_DOORBELL_SET:
                ids = arg1 & _U32_MAX, arg2 & _U32_MAX  # of Linux's -1 all 64 bits are set
                self._driver.doorbell = None if INVALID_ID in ids else ids
                return Answer(Status.SUCCESS, 0)
            case Command.LOCK | Command.UNLOCK:
                return self._move_page(known, arg1)
            case _:
                return self._move_batch(known, arg1, arg2)

    def _start(self, wanted: int) -> Answer:
        """A driver has come, or goes: either has all of its memory."""
        self.given.take_back_all()
        self._forget_driver()
        granted = Capability(wanted & self._offered)
        self._driver.has_started, self._driver.granted = wanted != 0, granted
        if granted == Capability.BASIC:
            return Answer(Status.SUCCESS, 0)  # as to drivers that know of no others
        return Answer(Status.SUCCESS_WITH_CAPABILITIES, int(granted))

    def _refuse_command(self, command: Command) -> Answer:
        """Not granted; Linux's driver removes its doorbell before it knows what is."""
        if command is Command.VMCI_DOORBELL_SET:
            return Answer(Status.CMD_INVALID, 0)
        return self._break(f"{COMMAND_NAMES[command]} was not granted")

    def _break(self, how: str, status: Status = Status.CMD_INVALID) -> Answer:
        self.broken = how
        return self._answer(status)

    def _move_page(self, command: Command, pfn: int) -> Answer:
        """LOCK and UNLOCK: the page's verdict is that of the call."""
        if pfn > _U32_MAX:
            return self._answer(Status.PPN_INVALID)
        statuses = self._move(command, np.array([pfn], np.uint64))
        return self._answer(int(statuses[0]))

    def _move_batch(self, command: Command, batch_pfn: int, entries: int) -> Answer:
        """The batched commands: verdicts stand in the batch page."""
        if not 0 < entries <= BATCH_ENTRIES_MAX:
            return self._break(f"a batch of {entries} entries")
        page = self._batch_page(batch_pfn)
        if page is None:
            return self._break(f"page {batch_pfn:#x} cannot be a batch page", Status.PPN_INVALID)
        size = entries * BATCH_ENTRY_BYTES
        pfns = pfns_of(bytes(page[:size]))  # read once: the guest may write meanwhile
        page[:size] = with_statuses(pfns, self._move(command, pfns))
        return self._answer(Status.SUCCESS)

    def _batch_page(self, pfn: int) -> memoryview | None:
        """The guest's, if it is in memory that can be written."""
        memory = self.given.memory
        if memory is None:
            return None
        try:
            page = memory.view(pages_to_bytes(pfn), BALLOON_PAGE_BYTES)
        except GuestMemoryError:
            return None
        return None if page.readonly else page

    def _move(self, command: Command, heads: Pfns) -> PageStatuses:
        """Lock or unlock each page that can be; returns the verdicts."""
        pages = HUGE_PAGES if command in _OF_BLOCKS else 1
        statuses = (self._lock if command in _LOCKS else self._unlock)(heads, pages)
        self._count_refusals(statuses)
        if (statuses == Status.SUCCESS).any():
            self._tell_actual()
        return statuses

    def _lock(self, heads: Pfns, pages: int) -> PageStatuses:
        room_pages = self._target_pages - self.actual_pages
        statuses = verdicts_on_lock(self.locked, self.policy, heads, pages, room_pages)
        locked = heads[statuses == Status.SUCCESS]
        self.locked.lock(locked, pages)
        self.given.give(page_pfns(locked, pages))
        doubtful = heads[statuses == Status.PPN_LOCKED]
        self.given.take_back(page_pfns(doubtful, pages))
        return statuses

    def _unlock(self, heads: Pfns, pages: int) -> PageStatuses:
        statuses = verdicts_on_unlock(self.locked, self.policy, heads, pages)
        unlocked = heads[statuses == Status.SUCCESS]
        self.given.take_back(page_pfns(unlocked, pages))
        self.locked.unlock(unlocked, pages)
        return statuses

    def _answer(self, status: int) -> Answer:
        """An answer with the target, which the driver heeds if it is SUCCESS."""
        if status == Status.SUCCESS:
            self.request.sent()
            self.request.read()
        wide = self._driver.granted & Capability.TARGET_64
        return Answer(status, min(self._target_pages, _U64_MAX if wide else _U32_MAX))

    def _count_refusals(self, statuses: PageStatuses) -> None:
        counts = np.bincount(statuses)
        for status in (np.flatnonzero(counts[1:]) + 1).tolist():
            self.refusals[Status(status)] += int(counts[status])
        rejected = int(np.count_nonzero(statuses == Status.PPN_INVALID))
        if rejected:
            self.given.counters.rejected_pages += rejected
            self.given.observers.tell(PagesRejected(QueueRole.INFLATE, rejected))

    def _wake_driver(self) -> None:
        doorbell = self._driver.doorbell
        if doorbell is not None and self._ring_doorbell is not None:
            self._ring_doorbell(*doorbell)
            self.request.sent()

    def _forget_driver(self) -> None:
        """All that a driver said; what it locked is unlocked."""
        had_pages = self.actual_pages > 0
        self.locked = LockedPages(self._table)
        self.broken = None
        self._is_resetting = False
        self._driver = _Driver()
        if had_pages:
            self._tell_actual()

    def _tell_actual(self) -> None:
        self.request.moved(self.actual_pages)
        self.given.observers.tell(ActualChanged(self.actual_pages))
