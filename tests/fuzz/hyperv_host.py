"""Hyper-V's host with a guest that says what it likes, and an account of what it may drop.

The account is kept in sets of pages, read out of the raw messages (`Wire`).  Besides: what the host
says is well-formed, it gives back only what it was given, and it comes to rest.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from tests.fuzz.script import Script
from tests.fuzz.setting import FindingError, RunInput
from tests.support.hyperv_guest import (
    HostRig,
    balloon_response,
    capabilities_report,
    hot_add_response,
    message,
    status_report,
    unballoon_response,
    version_request,
)
from tests.support.hyperv_wire import Wire

from ballonet.balloon.inhibition import InhibitReason
from ballonet.hyperv.settings import HypervHostSettings
from ballonet.memory.regions import Region
from ballonet.memory.runs import DiscardResult, Ranges

PAGE: Final = 4096
#: Small pages, big ones, a region that begins and ends within a page, and 2 MiB to be hot-added.
EXTRA_GPA, EXTRA_BYTES = 0x40_0000, 0x40_0000
REGIONS: Final = (
    Region(0, 0x10_0000, 1 << 40, 0),
    Region(0x20_0000, 0x8_0000, 2 << 40, 0, 0x10000),
    Region(0x30_0800, 0x4_0000, 3 << 40, 0),
    Region(EXTRA_GPA, EXTRA_BYTES, 4 << 40, 0),
)
MOST_PAGES: Final = sum(region.size // PAGE for region in REGIONS)
END_PAGES: Final = (EXTRA_GPA + EXTRA_BYTES) // PAGE
SETTINGS: Final = HypervHostSettings(
    post_init_wait_ns=1_000_000_000,
    status_report=True,
    extra_gpa=EXTRA_GPA,
    extra_bytes=EXTRA_BYTES,
)
FIRSTS: Final = (
    0,
    1,
    0x80,
    0xF0,
    0x200,
    0x208,
    0x270,
    0x300,
    0x33F,
    0x400,
    0x5FF,
    2**20,
    2**40 - 1,
)
COUNTS: Final = (0, 1, 2, 15, 16, 40, 512, 2**24 - 1)
VERSIONS: Final = (0x20000, 0x20000, 0x10000, 3, 0, 0xFFFF_FFFF)
CAPABILITIES: Final = (0b111, 0b111, 0b110, 1, 0, 0b1111111, 2**64 - 1)
#: Bodies that look right in parts.
HEADS: Final = (0, 1, 2, 3, 4, 9, 2**31, 2**32 - 1)
STEPS_MAX: Final = 300
TURNS_MAX: Final = 30
SENT_MAX: Final = 70  # by one call


class HypervHostFuzz(NamedTuple):
    """A `FuzzSetting`."""

    def __str__(self) -> str:
        return "hyperv-host"

    @contextmanager
    def ready(self) -> Iterator[RunInput]:
        yield run_input


def run_input(raw: bytes) -> frozenset[str]:
    """Run one input; returns what the host did, as a signature. Raises: FindingError."""
    machine = Machine(Script(raw))
    try:
        machine.run()
    except Exception as error:
        raise FindingError(f"{type(error).__name__}: {error}") from error
    counters = machine.host.counters
    grown = {name for name in counters.__slots__ if getattr(counters, name)}
    return frozenset(machine.trace | grown)


class Machine:
    """One host, from its first guest to its end."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._rig = HostRig(SETTINGS, regions=REGIONS)
        self.host = self._rig.host
        self._wire = Wire(self._rig.memory.table, END_PAGES)
        self._is_inhibited = False
        self.trace: set[str] = set()
        self._rig.memory.discard = self._discard  # type: ignore[method-assign]

    def run(self) -> None:
        """Everything the script says. Raises: whatever the host should not."""
        if self._script.byte() & 7:
            self.open()
        for _ in range(STEPS_MAX):
            if self._script.is_over:
                break
            _OPERATIONS[self._script.byte() % len(_OPERATIONS)](self)
            self._follow()
        self._check_figures()
        self.host.detach()
        self._check_figures()
        assert self.host.given.ledger.waiting_bytes == 0
        assert self.host.actual_pages == 0

    # What the guest says.

    def open(self) -> None:
        """An honest handshake."""
        self.host.attach(self._rig.memory)
        self._wire.given.clear()
        self._rig.room = 8
        self._say(version_request(0x20000))
        self._say(capabilities_report(self._script.choose(CAPABILITIES)))
        self._rig.clock.advance(2)
        self.host.expired()

    def give(self) -> None:
        """Pages of memory, most of them in ranges that make sense."""
        pairs = [self._pair() for _ in range(self._script.byte() % 6)]
        self._say(balloon_response(pairs, more=bool(self._script.byte() & 1)))

    def give_a_run(self) -> None:
        first, count = self._script.byte() % 0x60 * 16, self._script.byte() % 200 + 1
        self._say(balloon_response([(first, count)], more=bool(self._script.byte() & 1)))

    def give_many(self) -> None:
        """More than a message should hold, of single pages."""
        first, step = self._script.word(), self._script.byte() % 4
        self._say(balloon_response([(first % 2**39 + i * step, 1) for i in range(512)]))

    def confirm(self) -> None:
        self._say(unballoon_response())

    def answer_hot_add(self) -> None:
        pages = self._script.choose((0, 1, 256, 512, 768, 1024, 2**32 - 1))
        self._say(hot_add_response(pages, self._script.byte() & 1))

    def report_status(self) -> None:
        self._say(status_report(self._script.word(), 2**64 - 1 - self._script.byte()))

    def ask_version(self) -> None:
        self._say(version_request(self._script.choose(VERSIONS)))

    def report_capabilities(self) -> None:
        self._say(capabilities_report(self._script.choose(CAPABILITIES)))

    def say_anything(self) -> None:
        self._say(self._script.take(self._script.byte() % 40))

    def say_anything_of_a_type(self) -> None:
        """A header that is right, or not quite, and whatever body."""
        head = struct.pack("<II", self._script.choose(HEADS), self._script.choose(HEADS))
        body = head + self._script.take(self._script.byte() % 40)
        raw = bytearray(message(self._script.byte() % 18, body))
        if self._script.byte() % 4 == 0:
            raw[2:4] = struct.pack("<H", self._script.word() & 0xFFFF)
        self._say(bytes(raw))

    # What the host does, and what becomes of the guest.

    def set_target(self) -> None:
        self.host.set_target(self._script.choose((0, 40, 200, 600, 1024, 1100, 1500, 2**40)))

    def wait(self) -> None:
        self._rig.clock.advance(self._script.choose((0.0, 0.002, 0.03, 2.0)))
        self.host.expired(busy=bool(self._script.byte() & 1))

    def come_to_rest(self) -> None:
        """All is done that can be done now."""
        self._rig.room = SENT_MAX
        for _ in range(TURNS_MAX):
            more = self.host.expired()
            self._follow_messages()
            if not more:
                deadline_ns = self.host.deadline_ns
                assert deadline_ns is None or deadline_ns > self._rig.clock.now_ns(), "no rest"
                break

    def resize_ring(self) -> None:
        self._rig.room = self._script.byte() % 4

    def inhibit(self) -> None:
        inhibition = self.host.given.inhibition
        step = inhibition.lift if self._is_inhibited else inhibition.inhibit
        step(InhibitReason.SNAPSHOT)
        self._is_inhibited = not self._is_inhibited

    def leave(self) -> None:
        """The channel is closed, or the machine reset; another guest may come."""
        what = self._script.byte()
        if what & 1:
            self.host.detach()
        if what & 2:
            self._wire.given.clear()
            self.host.reset_system()
        if what & 12 and what & 3:
            self.open()

    # How it is watched.

    def _say(self, raw: bytes) -> None:
        self._wire.host_heard(raw)
        self.host.received(raw)

    def _follow_messages(self) -> None:
        """What was said since the last time."""
        assert len(self._rig.sent) <= SENT_MAX, "too much in one go"
        for raw in self._rig.sent:
            kind, size = struct.unpack_from("<HH", raw)
            assert 8 <= len(raw) == size <= 4096
            self.trace.add(f"sent {kind}")
            if kind == 8:
                self._check_returned(raw)
            self._wire.host_said(raw)
        self._rig.sent.clear()

    def _follow(self) -> None:
        """What can be said of the host now."""
        self._follow_messages()
        self.trace.add(self.host.state.value)
        assert 0 <= self.host.actual_pages <= MOST_PAGES

    def _check_figures(self) -> None:
        """They are for JSON, and bounded."""
        figures = self.host.describe()
        json.dumps([figures, self.host.capabilities])
        ranges = figures.get("removed-ranges", 0)
        assert isinstance(ranges, int)
        assert ranges <= (1 << 16) + MOST_PAGES

    def _check_returned(self, raw: bytes) -> None:
        """Only what was given goes back."""
        _, count, word = struct.unpack_from("<IIQ", raw, 8)
        assert count == 1
        first, pages = word & (1 << 40) - 1, word >> 40
        assert 0 < pages <= 524_288
        inside = set(range(first, min(first + pages, END_PAGES)))
        assert inside <= self._wire.given, "given back, and never given"

    def _discard(self, ranges: Ranges) -> DiscardResult:
        self.trace.add("dropped")
        assert not self._is_inhibited, "discarded while inhibited"
        self._follow_messages()  # those of this very moment count, too
        page_bytes = REGIONS[ranges.region].page_bytes
        assert not ((ranges.offsets | ranges.lengths) % page_bytes).any(), "half a host page"
        self._wire.check_drop(ranges)
        return DiscardResult(calls=1, discarded_bytes=ranges.total_bytes)

    def _pair(self) -> tuple[int, int]:
        if self._script.byte() % 8 == 0:
            return self._script.word() % 2**40, self._script.word() % 2**24
        first = self._script.choose(FIRSTS) + self._script.byte() % 16
        return first % 2**40, self._script.choose(COUNTS)


_M = Machine
_OPERATIONS: Final[tuple[Callable[[Machine], None], ...]] = (
    *(_M.give, _M.give, _M.give, _M.give_a_run, _M.give_a_run, _M.give_a_run, _M.give_many),
    *(_M.confirm, _M.confirm, _M.answer_hot_add, _M.answer_hot_add, _M.report_status),
    *(_M.ask_version, _M.report_capabilities, _M.say_anything, _M.say_anything_of_a_type),
    *(_M.set_target, _M.set_target, _M.set_target, _M.wait, _M.wait, _M.come_to_rest),
    *(_M.come_to_rest, _M.resize_ring, _M.inhibit, _M.leave),
)
