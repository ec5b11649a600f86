"""Hyper-V's hosts and drivers with one fault each: what every check of them must notice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

import numpy as np

from ballonet.balloon.clock import Clock
from ballonet.balloon.memory import BalloonMemory
from ballonet.conform.hyperv.embedded_rig import MakeDriver
from ballonet.conform.hyperv.wire import balloon_response, message, ranges_of
from ballonet.errors import GuestPanicError, WireError
from ballonet.hyperv.driver import DriverState, HypervDriver
from ballonet.hyperv.host import HypervHost
from ballonet.hyperv.parser import parse
from ballonet.hyperv.settings import HypervDriverSettings, HypervHostSettings
from ballonet.kernel.frames import Use
from ballonet.kernel.kernel import Kernel
from ballonet.kernel.tasks import Job
from ballonet.siblings.vmbus_serial import MakeHost

__all__ = ["GUEST_FAULTS", "HOST_FAULTS"]

#: The first page that a check has of its own.
FIRST_PFN: Final = 4096
Send = Callable[[bytes], bool]
#: What comes through for a message.
Change = Callable[[bytes], list[bytes]]


def kind_of(raw: bytes) -> int:
    return int.from_bytes(raw[:2], "little")


def word(raw: bytes, at: int) -> int:
    return int.from_bytes(raw[at : at + 4], "little")


def with_word(raw: bytes, at: int, value: int) -> bytes:
    return raw[:at] + (value & 0xFFFF_FFFF).to_bytes(4, "little") + raw[at + 4 :]


def of(kind: int, change: Change) -> Change:
    """Messages of one type are changed, and others come through."""
    return lambda raw: change(raw) if kind_of(raw) == kind else [raw]


def set_word(kind: int, at: int, value: Callable[[int], int]) -> Change:
    return of(kind, lambda raw: [with_word(raw, at, value(word(raw, at)))])


def through(raw: bytes) -> list[bytes]:
    return [raw]


class BrokenHost(HypervHost):
    """A host that hears and says something else."""

    hears: Change = staticmethod(through)
    puts: Send

    def received(self, message: bytes) -> None:
        for one in self.hears(message):
            super().received(one)


def broken_host(
    *, hears: Change = through, says: Change = through, host: type[BrokenHost] = BrokenHost
) -> MakeHost:
    def make(clock: Clock, settings: HypervHostSettings, send: Send) -> HypervHost:
        def put(raw: bytes) -> bool:
            return all(map(send, says(raw)))

        broken = host(clock, settings, put)
        broken.puts = send
        if hears is not through:
            broken.hears = hears
        return broken

    return make


def _answering(kind: int, answer: bytes) -> type[BrokenHost]:
    """Answers messages of a type, besides."""

    class Host(BrokenHost):
        def received(self, message: bytes) -> None:
            super().received(message)
            if kind_of(message) == kind:
                self.puts(answer)

    return Host


class _Impatient(BrokenHost):
    def __init__(self, clock: Clock, settings: HypervHostSettings, send: Send) -> None:
        super().__init__(clock, replace(settings, post_init_wait_ns=0), send)


class _Forgetless(BrokenHost):
    """It does not notice that a channel is closed."""

    def detach(self) -> None:
        return

    def attach(self, memory: BalloonMemory) -> None:
        if self.given.memory is None:
            super().attach(memory)


class _Insistent(BrokenHost):
    """It asks again whenever a guest has nothing to give."""

    def received(self, message: bytes) -> None:
        super().received(message)
        if kind_of(message) == 7 and not word(message, 12) >> 1:
            self.set_target(self.target_pages)


class _Hasty(BrokenHost):
    """It does not wait for what is under way."""

    def set_target(self, pages: int) -> None:
        was_asking = self.is_running and self.state.value.endswith("wait")
        super().set_target(pages)
        if was_asking and self.state.value.startswith("balloon"):
            self.puts(message(6, pages.to_bytes(4, "little") + bytes(4)))


class _Counting(BrokenHost):
    """What was named twice, or is no memory, counts."""

    @property
    def actual_pages(self) -> int:
        return super().actual_pages + self.counters.duplicate_pages + self.counters.outside_pages


class _Trusting(BrokenHost):
    """What it cannot read, or did not ask for, gives it pages."""

    def received(self, message: bytes) -> None:
        super().received(message)
        try:
            parse(message)
        except WireError:
            self.given.give(np.arange(FIRST_PFN, FIRST_PFN + 64, dtype=np.uint64))
            return
        if kind_of(message) == 7:
            for first, pages in ranges_of(message[16:]):
                self.given.give(np.arange(first, first + min(pages, 64), dtype=np.uint64))


class _Wild(BrokenHost):
    """Answers with many ranges take the neighbours, too."""

    def received(self, message: bytes) -> None:
        super().received(message)
        if len(message) > 4000:
            self.given.give(np.arange(FIRST_PFN, FIRST_PFN + 1024, dtype=np.uint64))


def _whole_or_nothing(raw: bytes) -> list[bytes]:
    """Ranges that end beyond memory are not looked at."""
    inside = [one for one in ranges_of(raw[16:]) if sum(one) <= 16384]
    return [balloon_response(inside, more=bool(word(raw, 12) & 1))]


def _last_word(raw: bytes) -> list[bytes]:
    """After the first pages there are no others."""
    return [with_word(raw, 12, word(raw, 12) | 1), balloon_response([])]


def _memory_stays(raw: bytes) -> list[bytes]:
    """What is memory is not given back."""
    return [] if ranges_of(raw[16:])[0][0] < 16384 else [raw]


def _trimmed(raw: bytes) -> list[bytes]:
    ranges = ranges_of(raw[16:])
    return [balloon_response([(first, min(10, pages)) for first, pages in ranges[:1]])]


def _all_of_it(_: bytes) -> list[bytes]:
    return [message(11, (3 << 14).to_bytes(4, "little") + (1).to_bytes(4, "little"))]


def _lossy() -> MakeHost:
    """What finds no room is lost."""

    def make(clock: Clock, settings: HypervHostSettings, send: Send) -> HypervHost:
        def put(raw: bytes) -> bool:
            send(raw)
            return True

        return HypervHost(clock, settings, put)

    return make


_ACCEPT: Final = (1).to_bytes(8, "little")

HOST_FAULTS: Final[Mapping[str, MakeHost]] = {
    "Y-V1": broken_host(says=set_word(2, 8, lambda _: 0)),
    "Y-V2": broken_host(says=set_word(2, 8, lambda _: 1)),
    "Y-V3": broken_host(says=lambda raw: [with_word(raw, 4, 9)]),
    "Y-C1": broken_host(says=set_word(4, 8, lambda bits: bits & 1)),
    "Y-C2": broken_host(says=of(12, lambda _: [])),
    "Y-I1": broken_host(host=_Impatient),
    "Y-I2": broken_host(host=_answering(1, message(2, _ACCEPT))),
    "Y-I3": broken_host(host=_answering(3, message(4, _ACCEPT))),
    "Y-X1": broken_host(host=_Forgetless),
    "Y-S1": broken_host(hears=set_word(5, 8, lambda pages: pages // 2)),
    "Y-S2": broken_host(host=_answering(5, message(12, bytes(24)))),
    "Y-B1": broken_host(says=set_word(6, 8, lambda pages: pages + 1)),
    "Y-B2": broken_host(hears=of(7, lambda _: [])),
    "Y-B3": broken_host(hears=set_word(7, 12, lambda bits: bits & ~1)),
    "Y-B4": broken_host(hears=of(7, _last_word)),
    "Y-B5": broken_host(host=_Insistent),
    "Y-B6": broken_host(hears=set_word(3, 8, lambda bits: bits | 1)),
    "Y-B7": broken_host(says=set_word(6, 8, lambda _: 700_000)),
    "Y-U1": broken_host(says=set_word(8, 16, lambda first: first + 1)),
    "Y-U2": broken_host(says=set_word(8, 8, lambda _: 0)),
    "Y-T1": broken_host(host=_Hasty),
    "Y-T2": broken_host(says=lambda raw: [with_word(raw, 4, 9)]),
    "Y-R1": _lossy(),
    "Y-A1": broken_host(says=of(10, lambda raw: [message(10, raw[8:16])])),
    "Y-A2": broken_host(hears=of(11, _all_of_it)),
    "Y-A3": broken_host(hears=set_word(3, 8, lambda bits: bits | 2)),
    "Y-A4": broken_host(hears=of(7, lambda _: [balloon_response([])])),
    "Y-P1": broken_host(host=_Wild),
    "Y-P2": broken_host(host=_Counting),
    "Y-P3": broken_host(host=_Counting),
    "Y-P4": broken_host(hears=of(7, _whole_or_nothing)),
    "Y-P5": broken_host(host=_Trusting),
    "Y-P6": broken_host(host=_Trusting),
    "Y-P7": broken_host(host=_Trusting),
    "Y-P8": broken_host(host=_Trusting),
    "Y-P9": broken_host(host=_answering(15, message(12, bytes(24)))),
    "Y-P10": broken_host(hears=of(7, _trimmed)),
    "Y-P11": broken_host(says=of(8, _memory_stays)),
    "Y-P12": broken_host(host=_Wild),
}


class BrokenDriver(HypervDriver):
    """A driver that hears something else, or does something besides."""

    hears: Change = staticmethod(through)
    puts: Send

    def received(self, raw: bytes) -> None:
        for one in self.hears(raw):
            super().received(one)


def broken_driver(
    *, hears: Change = through, says: Change = through, driver: type[BrokenDriver] = BrokenDriver
) -> MakeDriver:
    def make(kernel: Kernel, send: Send, settings: HypervDriverSettings) -> HypervDriver:
        def put(raw: bytes) -> bool:
            return all(map(send, says(raw)))

        broken = driver(kernel, put, settings)
        broken.puts = send
        if hears is not through:
            broken.hears = hears
        return broken

    return make


def _settings(
    change: Callable[[HypervDriverSettings], HypervDriverSettings],
) -> MakeDriver:
    return lambda kernel, send, settings: HypervDriver(kernel, send, change(settings))


def _saying(is_meant: Callable[[BrokenDriver, bytes], bool], answer: bytes) -> type[BrokenDriver]:
    """Says something besides when it hears some messages."""

    class Driver(BrokenDriver):
        def received(self, raw: bytes) -> None:
            is_answered = is_meant(self, raw)
            super().received(raw)
            if is_answered:
                self.puts(answer)

    return Driver


def _panicking(is_meant: Callable[[bytes], bool]) -> type[BrokenDriver]:
    class Driver(BrokenDriver):
        def received(self, raw: bytes) -> None:
            if is_meant(raw):
                raise GuestPanicError("unable to handle page fault")
            super().received(raw)

    return Driver


def _touching(kernel: Kernel, send: Send, settings: HypervDriverSettings) -> HypervDriver:
    def put(raw: bytes) -> bool:
        if kind_of(raw) == 5:
            kernel.memory.fill(kernel.table.used_as(Use.BALLOON), 0)
        return send(raw)

    return HypervDriver(kernel, put, settings)


def _lossy_driver(kernel: Kernel, send: Send, settings: HypervDriverSettings) -> HypervDriver:
    """What finds no room is lost."""

    def put(raw: bytes) -> bool:
        send(raw)
        return True

    return HypervDriver(kernel, put, settings)


class _Unstoppable(BrokenDriver):
    def stop(self) -> Job[None]:
        yield None


class _Freeing(BrokenDriver):
    """It frees whatever it is told of."""

    def received(self, raw: bytes) -> None:
        super().received(raw)
        if kind_of(raw) == 8:
            for first, pages in ranges_of(raw[16:]):
                frames = np.arange(first, first + min(pages, 512))
                in_use = frames[self.kernel.table.use[frames] == Use.KERNEL]
                self.kernel.free(in_use)


class _Miscounting(BrokenDriver):
    """Pages that are not in the balloon count as taken back."""

    def received(self, raw: bytes) -> None:
        before = self.balloon.ignored_pages
        super().received(raw)
        self.balloon.pages -= self.balloon.ignored_pages - before


def _is_malformed(_: object, raw: bytes) -> bool:
    try:
        parse(raw)
    except WireError:
        return kind_of(raw) != 0
    return False


def _is_early(driver: BrokenDriver, raw: bytes) -> bool:
    return kind_of(raw) == 6 and driver.state is DriverState.INITIALIZING


def _is_late(driver: BrokenDriver, raw: bytes) -> bool:
    return kind_of(raw) == 2 and driver.state is DriverState.INITIALIZED


def _dies_of_silence() -> MakeDriver:
    count = 0

    def says(raw: bytes) -> list[bytes]:
        nonlocal count
        count += 1
        if count > 300:
            raise GuestPanicError("hung task")
        return [raw]

    return broken_driver(says=says)


def _not_empty(raw: bytes) -> list[bytes]:
    return [raw] if word(raw, 12) >> 1 else []


#: All but those that no message shows: YG-B3, YG-F1, YG-M15.
GUEST_FAULTS: Final[Mapping[str, MakeDriver]] = {
    "YG-V1": broken_driver(says=set_word(1, 12, lambda _: 0)),
    "YG-V2": broken_driver(hears=set_word(2, 8, lambda _: 0)),
    "YG-V3": broken_driver(says=of(1, lambda raw: [raw, raw])),
    "YG-C1": broken_driver(says=set_word(3, 8, lambda bits: bits & ~1)),
    "YG-C2": broken_driver(hears=set_word(4, 8, lambda _: 1)),
    "YG-S1": broken_driver(says=of(5, lambda raw: [raw, raw])),
    "YG-S2": broken_driver(says=set_word(5, 8, lambda _: 9999)),
    "YG-S3": _settings(lambda one: replace(one, pressure_report_delay=0)),
    "YG-N1": broken_driver(says=lambda raw: [with_word(raw, 4, 5)]),
    "YG-B1": broken_driver(hears=set_word(6, 8, lambda pages: pages + 1)),
    "YG-B2": broken_driver(says=set_word(7, 12, lambda bits: bits & ~1)),
    "YG-F2": broken_driver(says=of(7, _not_empty)),
    "YG-O1": _touching,
    "YG-U1": broken_driver(hears=set_word(8, 8, lambda _: 0)),
    "YG-U2": broken_driver(hears=of(8, lambda raw: [raw] if word(raw, 12) else [])),
    "YG-A1": broken_driver(says=set_word(11, 8, lambda _: 1)),
    "YG-I1": broken_driver(driver=_saying(lambda _, raw: kind_of(raw) == 12, message(9, b"", 50))),
    "YG-H1": _settings(lambda one: replace(one, hibernation=False)),
    "YG-R1": _lossy_driver,
    "YG-X1": broken_driver(driver=_Unstoppable),
    "YG-M1": broken_driver(hears=of(6, lambda raw: [] if word(raw, 8) >> 31 else [raw])),
    "YG-M2": broken_driver(driver=_Freeing),
    "YG-M3": broken_driver(driver=_panicking(lambda raw: kind_of(raw) == 8 and b"\xff" * 4 in raw)),
    "YG-M4": broken_driver(driver=_Miscounting),
    "YG-M5": broken_driver(driver=_Miscounting),
    "YG-M6": broken_driver(driver=_panicking(lambda raw: len(raw) > 4096)),
    "YG-M7": broken_driver(driver=_saying(_is_malformed, message(9, b"", 1 << 20))),
    "YG-M8": broken_driver(driver=_saying(_is_malformed, message(9, b"", 1 << 20))),
    "YG-M9": broken_driver(driver=_saying(_is_late, message(1, bytes(8), 1 << 20))),
    "YG-M10": broken_driver(driver=_saying(_is_early, balloon_response([]))),
    "YG-M11": broken_driver(says=of(7, lambda raw: [raw, raw])),
    "YG-M12": broken_driver(
        driver=_saying(lambda _, raw: kind_of(raw) == 99, message(9, b"", 1 << 20))
    ),
    "YG-M13": broken_driver(says=set_word(11, 8, lambda _: 1)),
    "YG-M14": broken_driver(says=of(7, lambda raw: [raw, raw])),
    "YG-M16": _dies_of_silence(),
}
