"""A process with a guest's memory, which writes to it, waits at it and has it watched, as told.

`python -m tests.integration.memory_process MEMORY CONTROL FDS`: numbers of three inherited
descriptors, of a memory file, a connection and a socket.  Units: pages of 4 KiB.
"""

from __future__ import annotations

import mmap
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from tests.support.wait import PATIENCE_S

from ballonet.migration.missing import GuestSideMissing
from ballonet.migration.tracking import GuestSideTracking

__all__ = ["FILE_NAME", "PAGE", "MemoryProcess"]

FILE_NAME: Final = "tracked-guest"
PAGE: Final = 4096
WORDS: Final = PAGE // 8
#: Pages that the busy writer changes at a time.
BURST: Final = 16

Pfns = NDArray[np.int64]


class MemoryProcess:
    """The test's end: a process, its memory file, and what it is asked.

    A file of another kind is of the name FILE_NAME, and is closed at the end.
    """

    def __init__(self, pages: int, fd: int | None = None) -> None:
        self.pages: Final = pages
        self.size: Final = pages * PAGE
        self.fd: Final = os.memfd_create(FILE_NAME) if fd is None else fd
        os.ftruncate(self.fd, self.size)
        ours, theirs = socket.socketpair()
        self._fds, their_fds = socket.socketpair()
        passed = [self.fd, theirs.fileno(), their_fds.fileno()]
        command = [sys.executable, "-m", "tests.integration.memory_process", *map(str, passed)]
        with theirs, their_fds:
            self._process = subprocess.Popen(command, pass_fds=passed)
        self._control = Connection(ours.detach())
        self.pid: Final = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.kill()
        self._control.close()
        self._fds.close()
        os.close(self.fd)

    def tell(self, name: str, *arguments: object) -> None:
        """Have something done, and do not wait for it."""
        self._control.send((name, arguments))

    @property
    def has_answered(self) -> bool:
        """Whether an answer is there."""
        return self._control.poll()

    def answer(self) -> Any:  # noqa: ANN401 - whatever was asked for
        """What comes of the last that it was told."""
        assert self._control.poll(PATIENCE_S), "the process does not answer"
        return self._control.recv()

    def ask(self, name: str, *arguments: object) -> Any:  # noqa: ANN401 - whatever was asked for
        """Have something done, and wait for it."""
        self.tell(name, *arguments)
        return self.answer()

    def receive_fd(self) -> int:
        """A descriptor that it has sent."""
        _, fds, _, _ = socket.recv_fds(self._fds, 1, 1)
        return fds[0]

    def contents(self) -> NDArray[np.uint64]:
        """Its memory, a row for each page, read without filling holes."""
        raw = b"".join(os.pread(self.fd, 1 << 20, at) for at in range(0, self.size, 1 << 20))
        return np.frombuffer(raw, np.uint64).reshape(-1, WORDS)

    def mapping(self) -> dict[str, str]:
        """What the kernel tells of its mapping of the memory (smaps)."""
        lines = iter(Path(f"/proc/{self.pid}/smaps").read_text(encoding="utf-8").splitlines())
        assert any(FILE_NAME in line for line in lines)
        found = dict[str, str]()
        for line in lines:
            name, _, value = line.partition(":")
            found[name] = value.strip()
            if name == "VmFlags":
                break
        return found

    def kill(self) -> None:
        """As by an accident."""
        self._process.kill()
        self._process.wait()


class _Memory:
    """The process's end."""

    def __init__(self, memory: int, control: Connection, fds: socket.socket) -> None:
        self._view = memoryview(mmap.mmap(memory, os.fstat(memory).st_size))
        self._words = np.frombuffer(self._view, np.uint64).reshape(-1, WORDS)
        self._control, self._fds = control, fds
        self._tracking = GuestSideTracking(self._view)
        self._missing: GuestSideMissing | None = None

    def track(self) -> int:
        for _ in self._tracking.start():
            pass
        return self._tracking.address

    def untrack(self) -> None:
        self._tracking.close()

    def miss(self) -> int:
        self._missing = GuestSideMissing(self._view)
        socket.send_fds(self._fds, [b"x"], [self._missing.fd])
        return self._missing.address

    def write(self, pfns: Pfns, word: int) -> None:
        """Somewhere in each page, one after the other."""
        self._words[pfns, word % WORDS] = word

    def write_slowly(self, pfns: Pfns, word: int) -> None:
        """The same with time between two pages for others to look."""
        for pfn in pfns.tolist():
            self._words[pfn, word % WORDS] = word

    def read(self, pfns: Pfns) -> NDArray[np.uint64]:
        """Pages in this order, each a row."""
        return self._words[pfns]

    def receive(self, first_pfn: int, pages: int) -> int:
        """Have the kernel write zeros to pages; returns the bytes."""
        part = self._view[first_pfn * PAGE : (first_pfn + pages) * PAGE]
        with Path("/dev/zero").open("rb", buffering=0) as zeros:
            return zeros.readinto(part)

    def count(self, seed: int) -> int:
        """Count up in pages at random until told something; returns how often."""
        random = np.random.default_rng(seed)
        turns = 0
        while not self._control.poll():
            self._words[random.integers(0, len(self._words), BURST), turns % WORDS] += 1
            turns += 1
        return turns

    def rest(self) -> None:
        """Nothing; ends what goes on."""


def main() -> None:
    """Do what is told until nobody is there."""
    memory, control, fds = map(int, sys.argv[1:])
    connection = Connection(control)
    process = _Memory(memory, connection, socket.socket(fileno=fds))
    asked: Mapping[str, Callable[..., object]] = {
        one.__name__: one
        for one in (
            process.track,
            process.untrack,
            process.miss,
            process.write,
            process.write_slowly,
            process.read,
            process.receive,
            process.count,
            process.rest,
        )
    }
    while True:
        try:
            name, arguments = connection.recv()
        except (EOFError, OSError):
            return
        connection.send(asked[name](*arguments))


if __name__ == "__main__":
    main()
