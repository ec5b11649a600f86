"""The driver's calls to its host: one at a time, the batch page, and what every answer may change.

An answer of SUCCESS to a command that has a target brings a new one; RESET, to whatever, means that
the driver has to begin anew.  Of the batch page only statuses are read back: a host may write what
it likes there, and cannot make the driver take one page for another.
Not here: when to call what (driver, inflation, deflation), what carries a call (siblings).
Units: frames of 4 KiB; `pages` of them, 1 or 512, make the page that a head names.
Source: Linux drivers/misc/vmw_balloon.c __vmballoon_cmd, vmballoon_send_start, vmballoon_lock_op.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ballonet.kernel.buddy import MigrateType
from ballonet.kernel.frames import Frames, Use
from ballonet.kernel.kernel import Kernel
from ballonet.kernel.tasks import Flag, Job
from ballonet.units import BALLOON_PAGE_BYTES
from ballonet.vmware.calls import (
    BATCH_ENTRIES_MAX,
    BATCH_ENTRY_BYTES,
    COMMAND_NAMES,
    GUEST_ID_LINUX,
    HUGE_PAGES,
    INVALID_ID,
    NO_CAPABILITIES,
    Answer,
    Capability,
    Command,
    Status,
    entries_of,
    statuses_of,
)

__all__ = ["CallHost", "HostCalls", "Verdicts"]

#: Carries a command and two arguments to the host.
CallHost = Callable[[int, int, int], Job[Answer]]

_U32_MAX: Final = 0xFFFF_FFFF
_U64_MAX: Final = 0xFFFF_FFFF_FFFF_FFFF
_WITH_TARGET: Final = frozenset(Command) - {
    Command.START,
    Command.GUEST_ID,
    Command.VMCI_DOORBELL_SET,
}
_LOCK: Final = {1: Command.BATCHED_LOCK, HUGE_PAGES: Command.BATCHED_2M_LOCK}
_UNLOCK: Final = {1: Command.BATCHED_UNLOCK, HUGE_PAGES: Command.BATCHED_2M_UNLOCK}


class Verdicts(NamedTuple):
    """What the host made of some pages."""

    accepted: NDArray[np.bool_]  #: which it locked, or unlocked
    is_answered: bool  #: False: the call as a whole was refused


class HostCalls:
    """All of one driver."""

    def __init__(self, kernel: Kernel, call: CallHost) -> None:
        self.capabilities = NO_CAPABILITIES
        self.target_pages = 0
        self.reset_required = True
        self.made: Final[Counter[str]] = Counter()
        self.failed: Final[Counter[str]] = Counter()
        self._kernel, self._call = kernel, call
        self._batch_frame: int | None = None
        self._free = Flag()  # no call is under way
        self._free.set()

    @property
    def takes_blocks(self) -> bool:
        """2 MiB can be locked at once; never without batches."""
        wanted = Capability.BATCHED | Capability.BATCHED_2M
        return self.capabilities & wanted == wanted

    @property
    def batch_max(self) -> int:
        """Pages of one call."""
        return 1 if self._batch_frame is None else BATCH_ENTRIES_MAX

    def start(self, wanted: Capability) -> Job[bool]:
        """Introduce the driver, or take leave with nothing wanted; False if the host refuses."""
        answer = yield from self._alone(Command.START, int(wanted), 0)
        match answer.status:
            case Status.SUCCESS_WITH_CAPABILITIES:
                self.capabilities = wanted & Capability(answer.result & int(wanted))
            case Status.SUCCESS:
                self.capabilities = Capability.BASIC
            case _:
                self.capabilities = NO_CAPABILITIES
                return False
        return True

    def get_target(self) -> Job[bool]:
        """Ask for the target; False without an answer, or if the guest is too big for this host."""
        # All that there could be: a limit that fell with every page given would be no limit.
        limit = self._kernel.managed_frames + self._kernel.hidden_frames
        if limit > _U32_MAX and not self.capabilities & Capability.TARGET_64:
            return False
        answer = yield from self._alone(Command.GET_TARGET, limit, 0)
        return answer.status == Status.SUCCESS

    def send_guest_id(self) -> Job[None]:
        """Say that this is Linux."""
        yield from self._alone(Command.GUEST_ID, GUEST_ID_LINUX, 0)

    def set_doorbell(self, context: int, resource: int) -> Job[bool]:
        """Say how the driver can be woken; False if it cannot be."""
        answer = yield from self._alone(Command.VMCI_DOORBELL_SET, context, resource)
        return answer.status == Status.SUCCESS

    def unset_doorbell(self) -> Job[None]:
        """Be woken no more."""
        yield from self.set_doorbell(INVALID_ID, INVALID_ID)

    def allocate_batch_page(self) -> bool:
        """Make batches possible; False without memory."""
        self.free_batch_page()
        self._batch_frame = self._kernel.take_block(0, Use.KERNEL, MigrateType.UNMOVABLE)
        return self._batch_frame is not None

    def free_batch_page(self) -> None:
        """Make calls of single pages from now on."""
        if self._batch_frame is not None:
            self._kernel.free(np.array([self._batch_frame]))
            self._batch_frame = None

    def lock(self, heads: Frames, pages: int) -> Job[Verdicts]:
        """Give pages to the host, at most `batch_max`."""
        yield from self._acquire()
        try:
            return (yield from self._move(Command.LOCK, heads, pages))
        finally:
            self._free.set()

    def unlock(self, heads: Frames, pages: int) -> Job[Verdicts]:
        """Ask for pages back, at most `batch_max`."""
        yield from self._acquire()
        try:
            return (yield from self._move(Command.UNLOCK, heads, pages))
        finally:
            self._free.set()

    def exchange(self, old: int, new: int) -> Job[tuple[bool, bool]]:
        """Ask for a page back, and give another for it; returns whether each was accepted.

        In this order: a host that has what it wants would not take one more.
        """
        yield from self._acquire()
        try:
            unlocked = yield from self._move(Command.UNLOCK, np.array([old]), 1)
            if not unlocked.accepted[0]:
                return False, False
            locked = yield from self._move(Command.LOCK, np.array([new]), 1)
            return True, bool(locked.accepted[0])
        finally:
            self._free.set()

    def _move(self, command: Command, heads: Frames, pages: int) -> Job[Verdicts]:
        """Lock or unlock, while no other call is under way."""
        if not heads.size:
            return Verdicts(np.zeros(0, np.bool_), is_answered=True)
        if self._batch_frame is None:
            return (yield from self._move_one(command, int(heads[0])))
        batched = (_LOCK if command is Command.LOCK else _UNLOCK)[pages]
        place = self._batch_frame * BALLOON_PAGE_BYTES, heads.size * BATCH_ENTRY_BYTES
        self._kernel.memory.view(*place)[:] = entries_of(heads)
        answer = yield from self._make(batched, self._batch_frame, heads.size)
        if answer.status != Status.SUCCESS:
            return Verdicts(np.zeros(heads.size, np.bool_), is_answered=False)
        statuses = statuses_of(bytes(self._kernel.memory.view(*place)))
        return Verdicts(statuses == Status.SUCCESS, is_answered=True)

    def _move_one(self, command: Command, pfn: int) -> Job[Verdicts]:
        """Without a batch page: the verdict on the page is the call's."""
        is_accepted = False
        if pfn <= _U32_MAX:
            answer = yield from self._make(command, pfn, 1)
            is_accepted = answer.status == Status.SUCCESS
        return Verdicts(np.array([is_accepted]), is_accepted)

    def _alone(self, command: Command, arg1: int, arg2: int) -> Job[Answer]:
        yield from self._acquire()
        try:
            return (yield from self._make(command, arg1, arg2))
        finally:
            self._free.set()

    def _make(self, command: Command, arg1: int, arg2: int) -> Job[Answer]:
        self.made[COMMAND_NAMES[command]] += 1
        answer = yield from self._call(command, arg1, arg2)
        if answer.status == Status.SUCCESS:
            if command in _WITH_TARGET:
                is_wide = self.capabilities & Capability.TARGET_64
                self.target_pages = answer.result & (_U64_MAX if is_wide else _U32_MAX)
        elif answer.status != Status.SUCCESS_WITH_CAPABILITIES:
            self.failed[COMMAND_NAMES[command]] += 1
        if answer.status == Status.RESET:
            self.reset_required = True
        return answer

    def _acquire(self) -> Job[None]:
        while not self._free.is_set:
            yield self._free
        self._free.clear()
