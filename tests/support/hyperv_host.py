"""A Hyper-V host as a test plays it, in raw bytes, before our driver on a kernel of its own."""

from __future__ import annotations

import mmap
import struct

import numpy as np
from tests.support.clock import FakeClock
from tests.support.hyperv_guest import (
    BALLOON_REQUEST,
    BALLOON_RESPONSE,
    CAPABILITIES_REPORT,
    CAPABILITIES_RESPONSE,
    HOT_ADD_REQUEST,
    INFO,
    UNBALLOON_REQUEST,
    VERSION_REQUEST,
    VERSION_RESPONSE,
    Pairs,
    message,
    words,
)

from ballonet.hyperv.driver import DriverState, HypervDriver
from ballonet.hyperv.settings import HypervDriverSettings
from ballonet.kernel.frames import Frames, Use
from ballonet.kernel.kernel import Kernel, KernelSettings
from ballonet.kernel.physical import MemoryPiece, PhysicalMemory
from ballonet.kernel.tasks import Scheduler

MIB = 1 << 20
SILENT = HypervDriverSettings(pressure_report_delay=1 << 30)


def version_response(*, accepted: bool) -> bytes:
    return message(VERSION_RESPONSE, struct.pack("<Q", accepted))


def capabilities_response(*, accepted: bool = True) -> bytes:
    return message(CAPABILITIES_RESPONSE, struct.pack("<Q", accepted | 2))


def balloon_request(pages: int) -> bytes:
    return message(BALLOON_REQUEST, struct.pack("<II", pages, 0))


def unballoon_request(pairs: Pairs, *, more: bool = False) -> bytes:
    return message(UNBALLOON_REQUEST, struct.pack("<II", more, len(pairs)) + words(pairs))


def hot_add_request(*pairs: tuple[int, int]) -> bytes:
    return message(HOT_ADD_REQUEST, words(pairs))


def info(pages: int) -> bytes:
    return message(INFO, struct.pack("<4IQ", 0, 16, 0, 8, pages))


class DriverRig:
    """A driver, and everything around it."""

    def __init__(
        self,
        settings: HypervDriverSettings = SILENT,
        *,
        memory_bytes: int = 64 * MIB,
        page_bytes: int = 4096,
        kernel: KernelSettings = KernelSettings(marks=False),  # noqa: B008 - immutable
    ) -> None:
        self.clock = FakeClock()
        self.scheduler = Scheduler(self.clock.now_ns())
        pieces = [MemoryPiece(0, memoryview(mmap.mmap(-1, memory_bytes)))]
        self.kernel = Kernel(PhysicalMemory(pieces, page_bytes), self.scheduler, kernel)
        self.free_at_boot = self.kernel.free_frames
        self.room = 1 << 30
        self.sent: list[bytes] = []
        self.driver = HypervDriver(self.kernel, self._send, settings)

    def start(self) -> DriverRig:
        """Let the driver find a host that accepts everything."""
        self.driver.start()
        self.host_says(version_response(accepted=True))
        self.host_says(capabilities_response())
        self.sent.clear()
        return self

    def state(self) -> DriverState:
        """How far the driver is."""
        return self.driver.state

    def host_says(self, *raw: bytes) -> None:
        self.run()
        for one in raw:
            self.driver.received(one)
        self.run()

    def run(self) -> None:
        """Let the guest go on until it waits."""
        self.scheduler.run(self.clock.now_ns())

    def pass_time(self, seconds: float) -> None:
        """Time passes."""
        end_ns = self.clock.now_ns() + int(seconds * 1e9)
        self.run()
        while (due := self.scheduler.deadline_ns) is not None and due <= end_ns:
            self.clock.advance_ns(max(0, due - self.clock.now_ns()))
            self.run()
        self.clock.advance_ns(max(0, end_ns - self.clock.now_ns()))
        self.run()

    def take(self) -> list[tuple[int, bytes]]:
        """Type and body of what the driver sent since the last time."""
        sent, self.sent = self.sent, []
        assert all(struct.unpack_from("<H", one, 2)[0] == len(one) <= 4096 for one in sent)
        return [(struct.unpack_from("<H", one)[0], one[8:]) for one in sent]

    def versions(self) -> list[tuple[int, bool]]:
        """Which versions the driver asked for, and if it said that it was the last."""
        found = self.take()
        assert {kind for kind, _ in found} <= {VERSION_REQUEST}
        return [
            (version, bool(last)) for version, last in (struct.unpack("<II", b) for _, b in found)
        ]

    def capabilities(self) -> int:
        """What the driver says it can do."""
        ((kind, body),) = self.take()
        assert kind == CAPABILITIES_REPORT
        bits, least, most = struct.unpack("<QQQ", body)
        assert (least, most) == (0, 2**64 - 1)
        return int(bits)

    def responses(self) -> list[tuple[list[tuple[int, int]], bool]]:
        """Ranges, as first page and pages, and `more`, of each balloon response."""
        found = []
        for kind, body in self.take():
            assert kind == BALLOON_RESPONSE
            zero, word = struct.unpack_from("<II", body)
            assert zero == 0
            ranges = np.frombuffer(body, "<u8", offset=8)
            assert ranges.size == word >> 1
            pairs = [(int(one) & (1 << 40) - 1, int(one) >> 40) for one in ranges]
            found.append((pairs, bool(word & 1)))
        return found

    def balloon_frames(self) -> Frames:
        return self.kernel.table.used_as(Use.BALLOON)

    def _send(self, raw: bytes) -> bool:
        if len(self.sent) >= self.room:
            return False
        self.sent.append(raw)
        return True
