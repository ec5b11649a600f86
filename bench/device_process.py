"""`ballonet device` as a process, and a driver that only gives pages, as fast as they are taken."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from ballonet.conform.device.marked_memory import DATA_AT
from ballonet.conform.device.session import DeviceSession
from ballonet.conform.device.vhost_user_rig import VhostUserRig
from ballonet.errors import GuestError
from ballonet.guests.processes import PrivateDirectory
from ballonet.memory.shared_file import SharedFile
from ballonet.units import BALLOON_PAGE_BYTES
from ballonet.virtio.features import BALLOON_FEATURES, Feature
from ballonet.virtio.queues import QueueRole
from ballonet.virtio.ring.chain import Piece
from bench.listening import wait_for_listener

__all__ = [
    "FILLED",
    "LARGE_WANTED",
    "MEMORY_BYTES",
    "DeviceProcess",
    "Giver",
    "LargeRig",
    "cpu_seconds",
]

MEMORY_BYTES: Final = 1 << 30
LARGE_WANTED: Final = (
    (BALLOON_FEATURES & ~Feature.PAGE_POISON) | Feature.EVENT_IDX | Feature.VERSION_1
)
_MESSAGE: Final = 256
#: Messages that fill a ring, near enough.
FILLED: Final = 64
_OWN_PAGES: Final = 64
_TIMEOUT_S: Final = 60.0
_CPUCLOCK_SCHED: Final = 2  # what clock_getcpuclockid(3) makes of a process


def cpu_seconds(pid: int) -> float:
    """Processor time of a process so far, user and system."""
    return time.clock_gettime(~pid << 3 | _CPUCLOCK_SCHED)


class LargeRig(VhostUserRig):
    """Sessions with 1 GiB of memory."""

    def _memory(self, *, big_pages: bool) -> SharedFile:
        del big_pages
        return SharedFile("ballonet-bench", MEMORY_BYTES)


class Giver:
    """A session that gives pages of its memory."""

    def __init__(self, session: DeviceSession) -> None:
        self.session: Final = session
        first = DATA_AT // BALLOON_PAGE_BYTES
        self.data_pages: Final = np.arange(first, session.memory.file.size // BALLOON_PAGE_BYTES)
        self._full = 0
        self._gpas = [session.memory.allocate(4 * _MESSAGE) for _ in range(FILLED)]

    @property
    def fd(self) -> int:
        """The memory's file."""
        return self.session.memory.file.fd

    def fill(self) -> None:
        """Touch every page that may be given."""
        np.frombuffer(self.session.memory.file.view, np.uint8)[DATA_AT::BALLOON_PAGE_BYTES] = 1
        self._full = self.session.memory.file.held_bytes

    def inflate(self, pfns: NDArray[np.integer], *, at_once: int = 1) -> None:
        """Give pages in messages of 256, so many of them before their answers are awaited."""
        raw = pfns.astype("<u4").tobytes()
        step = 4 * _MESSAGE
        messages = [raw[at : at + step] for at in range(0, len(raw), step)]
        for first in range(0, len(messages), at_once):
            pieces = []
            for gpa, message in zip(self._gpas, messages[first : first + at_once], strict=False):
                self.session.memory.write(gpa, message)
                pieces.append((gpa, len(message)))
            self._send(pieces)

    def _send(self, pieces: list[Piece]) -> None:
        session, role = self.session, QueueRole.INFLATE
        heads = [session.rings[role].add([piece]) for piece in pieces]
        session.rings[role].publish()
        session.kick(role)
        for head in heads:
            session.wait_used(role, head)

    def wait_until_back(self, pages: int) -> None:
        """Until so many pages are no longer held by the host. Raises: GuestError."""
        # The driver's own messages may have taken a few pages meanwhile.
        wanted = self._full - (pages - _OWN_PAGES) * BALLOON_PAGE_BYTES
        end_s = time.monotonic() + _TIMEOUT_S
        while self.session.memory.file.held_bytes > wanted:
            if time.monotonic() > end_s:
                raise GuestError("the host does not get its memory back")
            time.sleep(0.001)


class DeviceProcess:
    """Our device; a context manager."""

    def __init__(self, *options: str) -> None:
        self._options = options
        self._directory = PrivateDirectory("ballonet-bench-", mark="{}/device")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process."""
        if self._process is None:
            raise GuestError("the device does not run")
        return self._process.pid

    def __enter__(self) -> Self:
        path = self._directory.path / "device"
        command = [sys.executable, "-m", "ballonet", "device", "--socket-path", str(path)]
        self._process = subprocess.Popen([*command, *self._options])
        wait_for_listener(path)
        self._bench = LargeRig(path)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
        self._directory.close()

    @contextmanager
    def session(self) -> Iterator[Giver]:
        """A driver with 1 GiB of memory."""
        with self._bench.session(LARGE_WANTED) as session:
            yield Giver(session)
