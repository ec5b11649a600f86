"""Each capability of VMware's balloon, and what else its driver does, seen of Linux's own driver.

Every observation has a host of its own, which offers what is looked at: the driver begins anew with
each.  The evidence is what the driver counts in debugfs, what its kernel counts, and the calls that
came.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

from ballonet.balloon.facts import Fact, MessageReceived
from ballonet.errors import GuestError
from ballonet.guests.evidence import Evidence, Witness
from ballonet.guests.vmware_guest import VmwareGuest
from ballonet.runtime.system_clock import SystemClock
from ballonet.siblings.port_server import PortServer
from ballonet.units import format_bytes, pages_to_bytes
from ballonet.vmware.calls import ALL_CAPABILITIES, CAPABILITY_NAMES, Capability, Status
from ballonet.vmware.host import VmwareHost, VmwareHostSettings
from ballonet.vmware.lock_policy import LockPolicy, RefusedPages

__all__ = ["OBSERVATIONS", "vmware_witness"]

_WAIT_S: Final = 300.0
_POLL_S: Final = 0.02
_BATCHED: Final = Capability.BASIC | Capability.BATCHED
_SINGLE_PAGES: Final = 100
_BALLOON_PAGES: Final = 20_000
_BLOCKS: Final = 20
_BLOCK_PAGES: Final = 512
#: More than 32 bits can say.
_WIDE_TARGET_PAGES: Final = 1 << 33
_PINNED_EACH: Final = 1500
_BATCH_PAGES: Final = 512
_COMPACT: Final = "echo 1 > /proc/sys/vm/compact_memory"
#: Which pages a balloon is made of, and which of them are in the way, is the kernel's choice.
_COMPACTED: Final = range(100, 600, 100)

Finding = tuple[bool, str]
T = TypeVar("T")


class Meeting:
    """The guest and one host; `said` is every call that came, in order."""

    def __init__(self, guest: VmwareGuest, server: PortServer) -> None:
        self.guest: Final = guest
        self.said: Final[list[MessageReceived]] = []
        self._server = server
        server.host.given.observers.add(self._hear, details=True)

    def ask(self, question: Callable[[VmwareHost], T]) -> T:
        """What the host says to it between two calls. Raises: GuestError."""
        if self._server.problem is not None:
            raise GuestError(self._server.problem)
        return self._server.ask(question)

    def until(self, condition: Callable[[VmwareHost], bool], what: str) -> None:
        """Wait until something is true of the host. Raises: GuestError, if it never is."""
        end_s = time.monotonic() + _WAIT_S
        while not self.ask(condition):
            if time.monotonic() > end_s:
                raise GuestError(f"the driver did not do it: {what}")
            time.sleep(_POLL_S)

    def settle(self, pages: int) -> None:
        """Have a balloon of this size, and its memory dropped. Raises: GuestError."""
        self.ask(lambda host: host.set_target(pages))
        self.until(lambda host: host.actual_pages == pages, f"a balloon of {pages:,} pages")
        self.until(lambda host: host.given.deadline_ns is None, "memory dropped")

    def count(self, name: str) -> int:
        """Calls of a name."""
        return sum(fact.name == name for fact in self.said)

    def _hear(self, fact: Fact) -> None:
        if isinstance(fact, MessageReceived):
            self.said.append(fact)


def observe_basic(meeting: Meeting) -> Finding:
    """A host of nothing else is told of one page at a time."""
    before = meeting.guest.vmmemctl()["lock calls"]
    meeting.settle(_SINGLE_PAGES)
    counted, came = meeting.guest.vmmemctl()["lock calls"] - before, meeting.count("lock")
    start = next(fact.arguments for fact in meeting.said if fact.name == "start")
    text = (
        f"START answered {start['status']} and no capabilities; {came} pages in {came} calls,"
        f" {counted} by vmmemctl"
    )
    return came == counted == _SINGLE_PAGES and start["status"] == Status.SUCCESS, text


def observe_batched(meeting: Meeting) -> Finding:
    """Many pages in one call, dropped by the host; all of them come back."""
    guest, memory = meeting.guest, meeting.guest.linux.memory
    free, held = guest.shell.meminfo()["MemFree"], memory.held_bytes()
    meeting.settle(_BALLOON_PAGES)
    calls, inside = meeting.count("batchLock"), memory.held_bytes()
    fell = free - guest.shell.meminfo()["MemFree"]
    meeting.settle(0)
    text = (
        f"{_BALLOON_PAGES:,} pages in {calls} calls: MemFree fell by {format_bytes(fell)}, host"
        f" memory {format_bytes(held)} → {format_bytes(inside)}; back in"
        f" {meeting.count('batchUnlock')} calls"
    )
    enough = pages_to_bytes(_BALLOON_PAGES) * 3 // 4
    return fell > enough and held - inside > enough and calls < _BALLOON_PAGES // 256, text


def observe_batched_2m(meeting: Meeting) -> Finding:
    """Pages of 2 MiB, as many as fit."""
    before = meeting.guest.vmmemctl()["alloc (2M)"]
    meeting.settle(_BLOCKS * _BLOCK_PAGES)
    blocks = meeting.ask(lambda host: host.locked.blocks)
    allocated = meeting.guest.vmmemctl()["alloc (2M)"] - before
    text = f"{blocks} pages of 2 MiB in {meeting.count('2m-lock')} calls, {allocated} by vmmemctl"
    return 0 < blocks <= allocated, text


def observe_doorbell(meeting: Meeting) -> Finding:
    """It is refused: nothing could ring it in here, and the driver looks once a second instead."""
    meeting.until(lambda _: meeting.count("target") > 3, "looks")
    counted = meeting.guest.vmmemctl()
    text = (
        f"nothing here can ring it: doorbellSet refused {counted['doorbellSet failed']} times by"
        f" now; woken {counted['timer']} times by the timer, {counted['doorbell']} times by a bell"
    )
    return counted["doorbell"] == 0 and counted["timer"] > 0, text


def observe_64_bit_target(meeting: Meeting) -> Finding:
    """A target beyond 32 bits arrives whole; no page is taken for it."""
    meeting.ask(lambda host: _refuse_with(host, _everything_pinned(meeting.guest)))
    meeting.ask(lambda host: host.set_target(_WIDE_TARGET_PAGES))
    looks = meeting.count("target")
    meeting.until(lambda _: meeting.count("target") > looks, "a look")
    seen = meeting.guest.vmmemctl()["target"]
    meeting.ask(lambda host: host.set_target(0))
    return seen == _WIDE_TARGET_PAGES, f"a target of 2^33 pages stands in vmmemctl as {seen:,}"


def observe_reset(meeting: Meeting) -> Finding:
    """A host that has forgotten everything has the driver begin anew."""
    meeting.settle(_BATCH_PAGES)
    before, starts = meeting.guest.vmmemctl()["reset"], meeting.count("start")
    meeting.ask(lambda host: host.reset_guest())
    meeting.until(lambda host: host.is_running, "START again")
    meeting.settle(_BATCH_PAGES)
    resets = meeting.guest.vmmemctl()["reset"] - before
    text = (
        f"{resets} reset by vmmemctl, {meeting.count('start') - starts} START; {_BATCH_PAGES} pages"
        f" forgotten with {meeting.count('batchUnlock')} calls to unlock any, and as many again"
    )
    return resets == 1 and not meeting.count("batchUnlock"), text


def observe_slack(meeting: Meeting) -> Finding:
    """A balloon that is too big by less than 512 pages stays, unless all is to come back."""
    meeting.settle(_BALLOON_PAGES)
    target = _BALLOON_PAGES // 2
    meeting.ask(lambda host: host.set_target(target))
    meeting.until(lambda host: host.actual_pages < target + _BATCH_PAGES, "a smaller balloon")
    looks = meeting.count("target")
    meeting.until(lambda _: meeting.count("target") > looks + 1, "looks")
    stays = meeting.ask(lambda host: host.actual_pages)
    meeting.settle(0)
    text = f"from {_BALLOON_PAGES:,} to {target:,} pages: stayed at {stays:,}; to 0: reached"
    return target < stays < target + _BATCH_PAGES, text


def observe_refusal(meeting: Meeting) -> Finding:
    """Pages that the host refuses stay the guest's, and the others are given."""
    policy = RefusedPages()
    policy.pin(range(0, _pages_of(meeting.guest), _PINNED_EACH))
    meeting.ask(lambda host: _refuse_with(host, policy))
    before = meeting.guest.vmmemctl()["errAlloc (4k)"]
    meeting.ask(lambda host: host.set_target(_BALLOON_PAGES))
    meeting.until(lambda host: host.actual_pages > _BALLOON_PAGES - _BATCH_PAGES, "a balloon")
    refused = meeting.ask(lambda host: host.refusals[Status.PPN_PINNED])
    counted = meeting.guest.vmmemctl()["errAlloc (4k)"] - before
    actual = meeting.ask(lambda host: host.actual_pages)
    text = (
        f"every {_PINNED_EACH:,}th page pinned: {refused} refusals, {counted} by vmmemctl, and"
        f" {actual:,} pages of {_BALLOON_PAGES:,} all the same"
    )
    return 0 < refused <= counted, text


def observe_migration(meeting: Meeting) -> Finding:
    """The guest's kernel moves pages of the balloon: each is unlocked before the next is locked."""
    shell = meeting.guest.shell
    before, beginning = shell.vmstat()["balloon_migrate"], 0
    for pages in _COMPACTED:
        meeting.settle(pages)
        beginning = len(meeting.said)
        shell.check(_COMPACT)
        if shell.vmstat()["balloon_migrate"] > before:
            break
    moved = shell.vmstat()["balloon_migrate"] - before
    names = [one.name for one in meeting.said[beginning:] if one.name in {"lock", "unlock"}]
    text = f"{moved} pages moved (balloon_migrate), in pairs of {' and '.join(names[:2])}"
    return moved > 0 and names == ["unlock", "lock"] * moved, text


@dataclass(frozen=True, slots=True)
class Observation:
    """What is looked at, and with a host that offers what."""

    look: Callable[[Meeting], Finding]
    offered: Capability = _BATCHED
    capability: Capability | None = None  #: that it is about


OBSERVATIONS: Final = {
    CAPABILITY_NAMES[Capability.BASIC]: Observation(
        observe_basic, Capability.BASIC, Capability.BASIC
    ),
    CAPABILITY_NAMES[Capability.BATCHED]: Observation(
        observe_batched, capability=Capability.BATCHED
    ),
    CAPABILITY_NAMES[Capability.BATCHED_2M]: Observation(
        observe_batched_2m, _BATCHED | Capability.BATCHED_2M, Capability.BATCHED_2M
    ),
    CAPABILITY_NAMES[Capability.DOORBELL]: Observation(
        observe_doorbell, ALL_CAPABILITIES, Capability.DOORBELL
    ),
    CAPABILITY_NAMES[Capability.TARGET_64]: Observation(
        observe_64_bit_target, _BATCHED | Capability.TARGET_64, Capability.TARGET_64
    ),
    "reset": Observation(observe_reset),
    "slack": Observation(observe_slack),
    "refusal": Observation(observe_refusal),
    "page migration": Observation(observe_migration, Capability.BASIC),
}


class VmwareWitness:
    """A `Witness` of a guest that believes to run on VMware."""

    def __init__(self, guest: VmwareGuest, names: Sequence[str]) -> None:
        self._guest = guest
        self.subject: Final = "Capabilities of VMware's balloon"
        self.names: Final = tuple(names)

    @property
    def release(self) -> str:
        """See `Witness`."""
        return self._guest.linux.release

    def observe(self) -> Iterator[Evidence]:
        """See `Witness`."""
        self._guest.vmmemctl()  # the driver counts from the first look on
        self._guest.linux.populate()
        for name in self.names:
            yield self._make(name, OBSERVATIONS[name])

    def _make(self, name: str, observation: Observation) -> Evidence:
        settings = VmwareHostSettings(observation.offered)
        host = VmwareHost(SystemClock(), settings, ring_doorbell=None)
        with self._guest.served(host) as server:
            meeting = Meeting(self._guest, server)
            meeting.until(lambda host: host.is_running, "START")
            granted = meeting.ask(lambda host: host.capabilities)
            observed, text = observation.look(meeting)
            meeting.ask(lambda host: _refuse_with(host, RefusedPages()))
            meeting.settle(0)
        if observation.capability is None:
            return Evidence(name, observed, text)
        return Evidence(
            name,
            observed,
            text,
            bit=observation.capability.bit_length() - 1,
            offered=observation.capability is not Capability.DOORBELL,
            negotiated=name in granted,
        )


@contextmanager
def vmware_witness(
    memory_bytes: int, names: Sequence[str] = tuple(OBSERVATIONS)
) -> Iterator[Witness]:
    """A guest in QEMU with Debian's kernel, to observe all or some. Raises: GuestError."""
    with VmwareGuest(memory_bytes) as guest:
        yield VmwareWitness(guest, names)


def _refuse_with(host: VmwareHost, policy: LockPolicy) -> None:
    host.policy = policy


def _everything_pinned(guest: VmwareGuest) -> RefusedPages:
    policy = RefusedPages()
    policy.pin(range(_pages_of(guest)))
    return policy


def _pages_of(guest: VmwareGuest) -> int:
    return guest.linux.settings.memory_bytes // pages_to_bytes(1)
