"""What an embedded guest can be asked, over a socket: a JSON object in each line.

``{"do": "meminfo"}`` is answered with ``{"result": {...}}`` or ``{"error": "..."}``.
A request is a task of the guest's kernel: while the guest is frozen none begins, and those that
came meanwhile are answered when it goes on.
Units: bytes.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from ballonet.errors import BallonetError
from ballonet.guests.balloon_side import BalloonSide
from ballonet.kernel.kernel import Kernel, ProcessKilled
from ballonet.kernel.tasks import Job
from ballonet.runtime.event_loop import Watcher

__all__ = ["AskedGuest", "RequestSocket"]

_LINE_MAX: Final = 1 << 16
_ANSWER_S: Final = 5.0
#: The name of processes that keep memory; another guest finds them by it.
_HOG: Final = "hog"


@dataclass(frozen=True, slots=True)
class AskedGuest:
    """Whom the questions are about."""

    kernel: Kernel
    balloon: BalloonSide


class RequestSocket:
    """One socket with requests; when it is closed, the guest ends."""

    def __init__(
        self, sock: socket.socket, watcher: Watcher, guest: AskedGuest, stop: Callable[[], None]
    ) -> None:
        self._sock, self._guest, self._stop = sock, guest, stop
        self._received = b""
        sock.settimeout(0)
        watcher.register(sock.fileno(), self._read)

    def _read(self) -> None:
        try:
            data = self._sock.recv(1 << 16)
        except OSError:  # whoever asked was killed with an answer unread
            data = b""
        if not data:
            self._stop()
            return
        *lines, self._received = (self._received + data).split(b"\n")
        if len(self._received) > _LINE_MAX:
            self._stop()
        for line in lines:
            self._guest.kernel.scheduler.spawn("request", self._execute(line))

    def _execute(self, line: bytes) -> Job[None]:
        try:
            request = json.loads(line)
            answer = {"result": (yield from _REQUESTS[request.pop("do")](self._guest, **request))}
        except (BallonetError, ValueError, TypeError, KeyError) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        self._answer(answer)

    def _answer(self, answer: dict[str, Any]) -> None:
        """Tell it; who does not listen is gone, and the guest goes with him."""
        self._sock.settimeout(_ANSWER_S)
        try:
            self._sock.sendall(json.dumps(answer).encode() + b"\n")
        except OSError:
            self._stop()
        else:
            self._sock.settimeout(0)


def _use_memory(guest: AskedGuest, percent: int) -> Job[int]:
    """Fill a part of what is available with a file and remove it; returns the bytes."""
    kernel = guest.kernel
    pages = kernel.available_frames * percent // 100
    area = kernel.add_area("fill", pages)
    yield from kernel.paging.touch(area, np.arange(pages), write=True)
    kernel.remove_area(area)
    return pages * kernel.page_bytes


def _read_file(guest: AskedGuest, size: int) -> Job[int]:
    """Read a file of so many bytes, which stays in the page cache; returns its pages."""
    pages = size // guest.kernel.page_bytes
    area = guest.kernel.add_area("file", pages)
    yield from guest.kernel.paging.touch(area, np.arange(pages), write=False)
    return pages


def _hog(guest: AskedGuest, size: int) -> Job[bool]:
    """A process takes so many bytes and keeps them; False if it was killed for it."""
    kernel = guest.kernel
    process = kernel.start_process(_HOG)
    pages = size // kernel.page_bytes
    area = kernel.add_area(_HOG, pages, process)
    try:
        yield from kernel.paging.touch(area, np.arange(pages), write=True, process=process)
    except ProcessKilled:
        return False
    return process.is_alive


def _release_hogs(guest: AskedGuest) -> Job[int]:
    """End every process that keeps memory, after a look at what is in it."""
    kernel = guest.kernel
    hogs = [one for one in kernel.processes if one.name == _HOG]
    for process in hogs:
        for area in list(process.areas):
            pages = np.arange(area.frames.size)
            yield from kernel.paging.touch(area, pages, write=False, process=process)
        kernel.end_process(process)
    return len(hogs)


def _at_once(question: Callable[[AskedGuest], Any]) -> Callable[..., Job[Any]]:
    """A request that is answered without waiting."""

    def ask(guest: AskedGuest) -> Job[Any]:
        yield None
        return question(guest)

    return ask


_REQUESTS: Final[Mapping[str, Callable[..., Job[Any]]]] = {
    "meminfo": _at_once(lambda guest: guest.kernel.meminfo()),
    "vmstat": _at_once(lambda guest: asdict(guest.kernel.counters)),
    "driver": _at_once(lambda guest: guest.balloon.facts()),
    "drop_caches": _at_once(lambda guest: guest.kernel.reclaim.drop_cache()),
    "compact": lambda guest: guest.kernel.compact(),
    "use_memory": _use_memory,
    "read_file": _read_file,
    "hog": _hog,
    "release_hogs": _release_hogs,
    "freeze": lambda guest: guest.balloon.freeze(),
    "restore": lambda guest: guest.balloon.restore(),
    "remove": lambda guest: guest.balloon.remove(),
}
