"""Hyper-V hosts that are checked; ours, in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final, Protocol

from ballonet.conform.checks import Failed
from ballonet.conform.device.marked_memory import MarkedMemory
from ballonet.conform.hand_clock import HandClock
from ballonet.conform.hyperv.host_session import HostSession
from ballonet.conform.hyperv.wire import Packet
from ballonet.conform.sibling_memory import shared_memory
from ballonet.hyperv.host import HypervHost
from ballonet.hyperv.settings import HypervHostSettings
from ballonet.memory.mapping import GuestMemory
from ballonet.siblings.vmbus_serial import MakeHost
from ballonet.units import BALLOON_PAGE_BYTES

__all__ = ["MEMORY_BYTES", "HostRig", "OwnHostRig"]

MEMORY_BYTES: Final = 64 << 20
#: In which a host has done what there is to do; each drops some megabytes, or says some words.
_TURNS_MAX: Final = 100_000


class HostRig(Protocol):
    """Makes sessions, each with a host that has not seen a guest."""

    name: str

    def session(
        self,
        *,
        memory_bytes: int = MEMORY_BYTES,
        extra_bytes: int = 0,
        wants_status: bool = False,
    ) -> AbstractContextManager[HostSession]:
        """A session whose channel is open.

        `extra_bytes`: memory right above the guest's, which can be hot-added.
        """
        ...


class OwnHostRig:
    """Our host, or what `make` makes."""

    name = "ballonet's Hyper-V host"

    def __init__(self, make: MakeHost = HypervHost) -> None:
        self._make = make

    @contextmanager
    def session(
        self,
        *,
        memory_bytes: int = MEMORY_BYTES,
        extra_bytes: int = 0,
        wants_status: bool = False,
    ) -> Iterator[HostSession]:
        """A fresh host, and memory of its guest."""
        settings = HypervHostSettings(
            extra_gpa=memory_bytes, extra_bytes=extra_bytes, status_report=wants_status
        )
        with shared_memory(memory_bytes + extra_bytes) as (file, of_host):
            host = _OwnHost(self._make, settings, of_host)
            host.open()
            yield HostSession(MarkedMemory(file, BALLOON_PAGE_BYTES), host)
            host.close()


class _OwnHost:
    """A `HostUnderTest`."""

    def __init__(self, make: MakeHost, settings: HypervHostSettings, memory: GuestMemory) -> None:
        self._clock = HandClock()
        self._sent: list[Packet] = []
        self._is_full = False
        self._memory = memory
        self._host = make(self._clock, settings, self._send)

    def received(self, raw: bytes) -> None:
        self._host.received(raw)

    def open(self) -> None:
        self._host.attach(self._memory)

    def close(self) -> None:
        self._host.detach()

    def set_target(self, pages: int) -> None:
        self._host.set_target(pages)

    @property
    def actual_pages(self) -> int:
        return self._host.actual_pages

    def set_room(self, *, is_full: bool) -> None:
        self._is_full = is_full

    def sent(self) -> list[Packet]:
        return self._sent

    def status(self) -> tuple[int, int] | None:
        report = self._host.status_report
        return None if report is None else report[:2]

    def rest(self, seconds: float = 0.0) -> None:
        """Timers of the protocol itself end by `seconds` alone."""
        self._clock.advance(seconds)
        for _ in range(_TURNS_MAX):
            if self._host.expired():
                continue
            deadline_ns = self._host.given.deadline_ns
            if deadline_ns is None:
                return
            self._clock.move_to(deadline_ns)
        raise Failed(f"the host has not come to rest in {_TURNS_MAX} turns")

    def _send(self, raw: bytes) -> bool:
        if self._is_full:
            return False
        self._sent.append(Packet(self._clock.now_ns(), raw))
        return True
