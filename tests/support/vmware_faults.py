"""VMware's hosts and drivers with one fault each: what every check of them must notice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Final
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from ballonet.balloon.clock import Clock
from ballonet.conform.vmware.embedded_rig import MakeDriver
from ballonet.conform.vmware.host_rig import MakeHost
from ballonet.errors import GuestMemoryError, GuestPanicError
from ballonet.kernel.frames import Use
from ballonet.kernel.kernel import Kernel
from ballonet.kernel.tasks import Job, Sleep
from ballonet.vmware.calls import (
    ALL_CAPABILITIES,
    HUGE_PAGES,
    INVALID_ID,
    Answer,
    Call,
    Capability,
    Command,
    Status,
)
from ballonet.vmware.driver import VmwareDriver, VmwareDriverSettings
from ballonet.vmware.host import RingDoorbell, VmwareHost, VmwareHostSettings
from ballonet.vmware.host_calls import CallHost

__all__ = ["GUEST_FAULTS", "HOST_FAULTS", "broken_driver", "broken_host"]

#: Where the checks' pages begin: those of the first that a check has.
FIRST_PFN: Final = 4096
MOVES: Final = (2, 3, 6, 7, 8, 9)
LOCKS: Final = (2, 6, 8)
UNLOCKS: Final = (3, 7, 9)
BATCHES: Final = (6, 7, 8, 9)

#: Answers a call of a host, whose own answer it can have.
HostFault = Callable[["BrokenHost", Call], Answer]


class BrokenHost(VmwareHost):
    """A host that lets a fault answer."""

    fault: Callable[[Call], Answer]

    def call(self, command: int, arg1: int, arg2: int) -> Answer:
        return self.fault(Call(command, arg1, arg2))

    def right(self, call: Call) -> Answer:
        return super().call(*call)


def broken_host(fault: HostFault) -> MakeHost:
    def make(clock: Clock, ring: RingDoorbell) -> VmwareHost:
        host = BrokenHost(clock, VmwareHostSettings(), ring_doorbell=ring)
        host.fault = partial(fault, host)
        return host

    return make


def instead(answer: Callable[[Answer], Answer], *commands: int) -> HostFault:
    """Another answer to some calls, which are obeyed all the same."""

    def fault(host: BrokenHost, call: Call) -> Answer:
        said = host.right(call)
        return answer(said) if call.command in commands else said

    return fault


def unheard(answer: Answer, *commands: int) -> HostFault:
    """An answer to calls that nothing is done about."""
    return lambda host, call: answer if call.command in commands else host.right(call)


def before(action: Callable[[BrokenHost, Call], object], *commands: int) -> HostFault:
    """Something is done before some calls are obeyed."""

    def fault(host: BrokenHost, call: Call) -> Answer:
        if call.command in commands:
            action(host, call)
        return host.right(call)

    return fault


def all_succeed(*commands: int) -> HostFault:
    """Every verdict is SUCCESS."""

    def fault(host: BrokenHost, call: Call) -> Answer:
        said = host.right(call)
        if call.command in commands and host.given.memory is not None:
            with suppress(GuestMemoryError):
                words = np.frombuffer(host.given.memory.view(call.arg1 << 12, 4096), "<u8")
                np.asarray(words)[: call.arg2] &= ~np.uint64(0x1F)
        return said

    return fault


def _grant_all(host: BrokenHost, _: Call) -> None:
    host._driver.granted = ALL_CAPABILITIES


def _start_all(host: BrokenHost, _: Call) -> None:
    if not host.is_running:
        host.right(Call(0, int(ALL_CAPABILITIES), 0))


def _allow(host: BrokenHost, _: Call) -> None:
    host.policy.allow()  # type: ignore[attr-defined]


def _want_more(host: BrokenHost, _: Call) -> None:
    host._target_pages = 1 << 20


def _forget_reset(host: BrokenHost, _: Call) -> None:
    host._is_resetting = False


def _drop_others(host: BrokenHost, _: Call) -> None:
    host.given.give(np.arange(FIRST_PFN, FIRST_PFN + 128, dtype=np.uint64))


def _start_goes_on(host: BrokenHost, call: Call) -> Answer:
    if call.command == 0 and host.is_running:
        return Answer(Status.SUCCESS_WITH_CAPABILITIES, call.arg1)
    return host.right(call)


def _trusts_second_lock(host: BrokenHost, call: Call) -> Answer:
    with patch.object(host.given, "take_back"):
        return host.right(call)


def _keeps_memory(host: BrokenHost, call: Call) -> Answer:
    with patch.object(host.given, "give"):
        return host.right(call)


def _blocks_are_pages(host: BrokenHost, call: Call) -> Answer:
    single = {8: 6, 9: 7}
    return host.right(call._replace(command=single.get(call.command, call.command)))


def _without_full_batches(host: BrokenHost, call: Call) -> Answer:
    return Answer(Status.BUSY, 0) if call.arg2 == 512 else host.right(call)


def _never_fails(host: BrokenHost, call: Call) -> Answer:
    said = host.right(call)
    return said if call.command == 0 else Answer(Status.SUCCESS, said.result)


def _narrow(answer: Answer) -> Answer:
    return Answer(answer.status, answer.result + 1)


def _success_for(*wrong: int) -> Callable[[Answer], Answer]:
    return lambda answer: Answer(0, answer.result) if answer.status in wrong else answer


HOST_FAULTS: Final[Mapping[str, HostFault]] = {
    "V-S1": instead(lambda _: Answer(Status.SUCCESS_WITH_CAPABILITIES, 0x3E), 0),
    "V-S2": instead(lambda _: Answer(Status.SUCCESS_WITH_CAPABILITIES, 0), 0),
    "V-S3": _start_goes_on,
    "V-S4": _start_goes_on,
    "V-S5": before(_start_all, *MOVES),
    "V-C1": before(_grant_all, *BATCHES),
    "V-C2": _never_fails,
    "V-T1": instead(_narrow, 1),
    "V-T2": instead(_narrow, 9),
    "V-T3": lambda host, call: (
        Answer(0, host.target_pages) if call.command == 1 else host.right(call)
    ),
    "V-G1": instead(lambda _: Answer(Status.CMD_INVALID, 0), 4),
    "V-D1": unheard(Answer(0, 0), 10),
    "V-D2": lambda host, call: Answer(0, 0) if call[:2] == (10, INVALID_ID) else host.right(call),
    "V-R1": instead(lambda said: Answer(Status.BUSY, 0) if said.status == 7 else said, 4),
    "V-R2": before(_forget_reset, *BATCHES),
    "V-L1": unheard(Answer(0, 0), 2),
    "V-L2": unheard(Answer(0, 0), 3),
    "V-L3": instead(_success_for(Status.PPN_LOCKED), 2),
    "V-L4": instead(_success_for(Status.PPN_UNLOCKED), 3),
    "V-L5": instead(_success_for(Status.PPN_INVALID), 2),
    "V-L6": before(_allow, *MOVES),
    "V-L7": before(_allow, *MOVES),
    "V-L8": before(_want_more, *MOVES),
    "V-B1": all_succeed(6),
    "V-B2": _without_full_batches,
    "V-B3": _never_fails,
    "V-M1": _blocks_are_pages,
    "V-M2": all_succeed(8),
    "V-M3": all_succeed(9),
    "V-P1": all_succeed(6),
    "V-P2": before(_drop_others, 6),
    "V-P3": _trusts_second_lock,
    "V-P4": all_succeed(8),
    "V-P5": _keeps_memory,
    "V-P6": before(_drop_others, 5),
}

#: Carries a call to the host, or does not.
GuestFault = Callable[[Kernel, CallHost, Call], Job[Answer]]


def broken_driver(fault: GuestFault) -> MakeDriver:
    def make(kernel: Kernel, call: CallHost, settings: VmwareDriverSettings) -> VmwareDriver:
        return VmwareDriver(kernel, lambda *args: fault(kernel, call, Call(*args)), settings)

    return make


def twice(*commands: int) -> GuestFault:
    def fault(_: Kernel, host: CallHost, call: Call) -> Job[Answer]:
        if call.command in commands:
            yield from host(*call)
        return (yield from host(*call))

    return fault


def other(change: Callable[[Call], Call]) -> GuestFault:
    """Another call than the driver makes."""
    return lambda _, host, call: host(*change(call))


def lost(is_lost: Callable[[Call], bool]) -> GuestFault:
    """Some calls do not reach the host, and the driver takes them for done."""

    def fault(_: Kernel, host: CallHost, call: Call) -> Job[Answer]:
        if is_lost(call):
            return Answer(Status.SUCCESS, 0)
        return (yield from host(*call))

    return fault


def misheard(change: Callable[[Call, Answer], Answer]) -> GuestFault:
    """Another answer than the host's."""

    def fault(_: Kernel, host: CallHost, call: Call) -> Job[Answer]:
        return change(call, (yield from host(*call)))

    return fault


def blind(*commands: int) -> GuestFault:
    """Every verdict is taken for SUCCESS."""

    def fault(kernel: Kernel, host: CallHost, call: Call) -> Job[Answer]:
        answer = yield from host(*call)
        if call.command in commands:
            words = _entries(kernel, call)
            words &= ~np.uint64(0x1F)
        return answer

    return fault


def _entries(kernel: Kernel, call: Call) -> NDArray[np.uint64]:
    return np.frombuffer(kernel.memory.view(call.arg1 << 12, 8 * call.arg2), np.uint64)


def _forgets_answer(*commands: int) -> GuestFault:
    """Pages are unlocked without asking: the driver hears what it likes."""
    return lost(lambda call: call.command in commands)


def _touches(kernel: Kernel, host: CallHost, call: Call) -> Job[Answer]:
    """It writes on all pages that the host has, and others that nobody else uses."""
    if call.command == 1:
        kernel.memory.fill(kernel.table.used_as(Use.BALLOON, Use.HELD), 0)
    return (yield from host(*call))


def _deaf_to_reset(_: Call, answer: Answer) -> Answer:
    return Answer(Status.BUSY, 0) if answer.status == Status.RESET else answer


def _other_pages(kernel: Kernel, host: CallHost, call: Call) -> Job[Answer]:
    """Not those of the blocks that were refused."""
    if call.command == 6:
        words = _entries(kernel, call)
        words[:] = (words + np.uint64(32 << 20)) % np.uint64(64 << 20)
    return (yield from host(*call))


def _also(first: Callable[[Call], Call], *commands: int) -> GuestFault:
    def fault(_: Kernel, host: CallHost, call: Call) -> Job[Answer]:
        if call.command in commands:
            yield from host(*first(call))
        return (yield from host(*call))

    return fault


def _tries_again(status: int) -> GuestFault:
    """Without a pause."""

    def fault(_: Kernel, host: CallHost, call: Call) -> Job[Answer]:
        for _again in range(100):
            answer = yield from host(*call)
            if answer.status != status:
                break
        return answer

    return fault


def _believes_entries(kernel: Kernel, host: CallHost, call: Call) -> Job[Answer]:
    """What stands in the batch page is asked for again, whatever it was."""
    if call.command == 7:
        _entries(kernel, call)[:] = np.uint64((1 << 52) - 1 << 12)
    return (yield from host(*call))


def _shrinks_early(call: Call, answer: Answer) -> Answer:
    return answer._replace(result=0) if call.command == 1 and answer.result < 3000 else answer


def _loses_some() -> GuestFault:
    count = 0

    def is_lost(call: Call) -> bool:
        nonlocal count
        count += call.command in UNLOCKS
        return call.command in UNLOCKS and count % 3 == 0

    return lost(is_lost)


def _panics(kernel: Kernel, host: CallHost, call: Call) -> Job[Answer]:
    """A guest that cannot wait."""
    begun_ns = kernel.scheduler.now_ns
    answer = yield from host(*call)
    if kernel.scheduler.now_ns > begun_ns + 60_000_000_000:
        raise GuestPanicError("hung task")
    return answer


def _never_leaves(_: Kernel, host: CallHost, call: Call) -> Job[Answer]:
    answer = yield from host(*call)
    while call[:2] == (0, 0) and answer.status not in (0, Status.SUCCESS_WITH_CAPABILITIES):
        yield Sleep(1_000_000_000)
        answer = yield from host(*call)
    return answer


class _RestlessDriver(VmwareDriver):
    def ring_doorbell(self) -> None:
        self._kernel.scheduler.spawn("bell", self.calls.get_target())


def _restless(kernel: Kernel, call: CallHost, settings: VmwareDriverSettings) -> VmwareDriver:
    return _RestlessDriver(kernel, call, settings)


#: All but those that no call shows: VG-M1 and VG-H5.
GUEST_FAULTS: Final[Mapping[str, MakeDriver]] = {
    "VG-S1": broken_driver(lost(lambda call: call.command == 4)),
    "VG-T1": broken_driver(twice(1)),
    "VG-T2": broken_driver(other(lambda c: c._replace(arg1=7) if c.command == 1 else c)),
    "VG-C1": broken_driver(_also(lambda c: Call(6, c.arg1, 1), 2)),
    "VG-I1": broken_driver(twice(6)),
    "VG-I2": broken_driver(
        other(
            lambda c: c._replace(arg1=c.arg1 & ~int(Capability.BATCHED_2M)) if not c.command else c
        )
    ),
    "VG-D1": broken_driver(_forgets_answer(9)),
    "VG-D2": broken_driver(misheard(_shrinks_early)),
    "VG-O1": broken_driver(_touches),
    "VG-R1": broken_driver(misheard(_deaf_to_reset)),
    "VG-R2": broken_driver(misheard(_deaf_to_reset)),
    "VG-F1": broken_driver(twice(6)),
    "VG-F2": broken_driver(_other_pages),
    "VG-F3": broken_driver(blind(7)),
    "VG-P1": broken_driver(lost(lambda call: call.command == 7 and call.arg2 == 1)),
    "VG-P2": broken_driver(blind(6)),
    "VG-B1": broken_driver(lost(lambda call: call.command == Command.VMCI_DOORBELL_SET)),
    "VG-X1": broken_driver(lost(lambda call: call[:2] == (0, 0))),
    "VG-H1": broken_driver(_tries_again(Status.RESET)),
    "VG-H2": broken_driver(blind(6, 8)),
    "VG-H3": broken_driver(misheard(lambda _, a: Answer(0, a.result) if a.status == 9 else a)),
    "VG-H4": broken_driver(_believes_entries),
    "VG-H6": broken_driver(_tries_again(Status.CMD_INVALID)),
    "VG-H7": broken_driver(_also(lambda _: Call(5, 0, 0), 1)),
    "VG-H8": broken_driver(_also(lambda c: Call(6, c.arg1, 1), 2)),
    "VG-H9": broken_driver(_loses_some()),
    "VG-H10": broken_driver(
        misheard(lambda c, a: a._replace(result=HUGE_PAGES * 8) if c.command == 1 else a)
    ),
    "VG-H11": broken_driver(_panics),
    "VG-H12": _restless,
    "VG-H13": broken_driver(_never_leaves),
}
