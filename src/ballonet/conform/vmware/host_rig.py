"""VMware hosts that are checked; ours, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Final, Protocol

from ballonet.balloon.clock import Clock
from ballonet.conform.checks import Failed
from ballonet.conform.device.marked_memory import MarkedMemory
from ballonet.conform.hand_clock import HandClock
from ballonet.conform.sibling_memory import shared_memory
from ballonet.conform.vmware.host_session import HostSession
from ballonet.memory.mapping import GuestMemory
from ballonet.units import BALLOON_PAGE_BYTES
from ballonet.vmware.calls import Answer, Status
from ballonet.vmware.host import RingDoorbell, VmwareHost, VmwareHostSettings
from ballonet.vmware.lock_policy import RefusedPages

__all__ = ["HostRig", "MakeHost", "OwnHostRig"]

_MEMORY_BYTES: Final = 64 << 20
#: In which a host has done what there is to do; each drops some megabytes, or says some words.
_TURNS_MAX: Final = 100_000

#: Makes a host of a clock and a doorbell.
MakeHost = Callable[[Clock, RingDoorbell], VmwareHost]


class HostRig(Protocol):
    """Makes sessions, each with a host that has not seen a guest."""

    name: str

    def session(self) -> AbstractContextManager[HostSession]:
        """A session."""
        ...


def _our_host(clock: Clock, ring: RingDoorbell) -> VmwareHost:
    return VmwareHost(clock, VmwareHostSettings(), ring_doorbell=ring)


class OwnHostRig:
    """Our host, or what `make` makes."""

    name = "ballonet's VMware host"

    def __init__(self, make: MakeHost = _our_host) -> None:
        self._make = make

    @contextmanager
    def session(self) -> Iterator[HostSession]:
        """A fresh host, and memory of its guest."""
        with shared_memory(_MEMORY_BYTES) as (file, of_host):
            host = _OwnHost(self._make, of_host)
            yield HostSession(MarkedMemory(file, BALLOON_PAGE_BYTES), host)
            host.close()


class _OwnHost:
    """A `HostUnderTest`."""

    def __init__(self, make: MakeHost, memory: GuestMemory) -> None:
        self._clock = HandClock()
        self._rings: list[tuple[int, int]] = []
        self._host = make(self._clock, lambda *ids: self._rings.append(ids))
        self._policy = self._host.policy = RefusedPages()
        self._host.attach(memory)

    def call(self, command: int, arg1: int, arg2: int) -> Answer:
        return self._host.call(command, arg1, arg2)

    def set_target(self, pages: int) -> None:
        self._host.set_target(pages)

    @property
    def actual_pages(self) -> int:
        return self._host.actual_pages

    def reset_guest(self) -> None:
        self._host.reset_guest()

    def pin(self, pfns: Sequence[int]) -> None:
        self._policy.pin(pfns)

    def keep(self, pfns: Sequence[int]) -> None:
        self._policy.refuse_unlock(pfns, Status.BUSY)

    def rings(self) -> list[tuple[int, int]]:
        return self._rings

    def rest(self) -> None:
        for _ in range(_TURNS_MAX):
            if self._host.expired():
                continue
            deadline_ns = self._host.deadline_ns
            if deadline_ns is None:
                return
            self._clock.move_to(deadline_ns)
        raise Failed(f"the host has not come to rest in {_TURNS_MAX} turns")

    def close(self) -> None:
        self._host.detach()
