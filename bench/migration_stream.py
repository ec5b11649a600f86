"""Processor time of sending memory as a migration stream: ours over plain `sendall`, `recv_into`.

A memfd of random pages, a Unix socket pair, a process at each end; the processor time of both is
added.  The plain way moves the same bytes of the same memory, 1 MiB a call: no records, no bounds,
no search for pages of zeros.  It reads and writes the file; through mappings of it the plain way
takes half as long again, for page faults.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias

import numpy as np

from ballonet.memory.regions import Region
from ballonet.memory.runs import PageRuns
from ballonet.migration.channels import SocketChannel
from ballonet.migration.framing import RecordReader
from ballonet.migration.incoming import Incoming
from ballonet.migration.memory_file import MemoryFile
from ballonet.migration.receiver import receive_until_runnable
from ballonet.migration.records import FORWARD, GuestRegion
from ballonet.migration.sender import StreamSender
from bench.report import Ratio

__all__ = ["measure"]

ROUNDS: Final = 5
_BYTES: Final = 1 << 30
_PAGES: Final = _BYTES >> 12
_CALL_BYTES: Final = 1 << 20
_REGION: Final = GuestRegion(0, _BYTES, 4096)

#: One end of a transfer: its socket, and the memory it reads or fills.
_End: TypeAlias = Callable[[socket.socket, int], None]


@dataclass(frozen=True, slots=True)
class _Case:
    name: str
    runs: PageRuns
    has_checksums: bool
    goal: float | None


_ALL: Final = PageRuns(np.array([0]), np.array([_PAGES]))
_SCATTERED: Final = PageRuns(np.arange(0, _PAGES, 2), np.ones(_PAGES // 2, np.int64))
_CASES: Final = (
    _Case("all pages", _ALL, has_checksums=False, goal=1.5),
    _Case("all pages, with checksums", _ALL, has_checksums=True, goal=3),
    _Case("every other page", _SCATTERED, has_checksums=False, goal=None),
)


def measure() -> Iterator[Ratio]:
    """Random pages, with and without checksums, in one run and scattered."""
    source = _make_memory()
    try:
        _fill(source)
        for case in _CASES:
            yield _compare(case, source)
    finally:
        os.close(source)


def _compare(case: _Case, source: int) -> Ratio:
    ours: list[float] = []
    plain: list[float] = []
    send = partial(_send_stream, case)
    size = case.runs.total_pages << 12
    for _ in range(ROUNDS):
        ours.append(_seconds_per_gib(send, _receive_stream, source, size))
        send_plain, receive_plain = partial(_send_plain, size), partial(_receive_plain, size)
        plain.append(_seconds_per_gib(send_plain, receive_plain, source, size))
    what = f"migration: processor time of both ends for a GiB of random pages, {case.name}"
    return Ratio(what, "stream", "sendall and recv_into", ours, plain, goal=case.goal)


def _seconds_per_gib(send: _End, receive: _End, source: int, size: int) -> float:
    """Each end in a process of its own."""
    context = multiprocessing.get_context("fork")
    destination = _make_memory()
    left, right = socket.socketpair()
    before = _children_seconds()
    ends = [
        context.Process(target=_run_end, args=(send, left, right, source)),
        context.Process(target=_run_end, args=(receive, right, left, destination)),
    ]
    for end in ends:
        end.start()
    left.close()
    right.close()
    for end in ends:
        end.join()
    os.close(destination)
    if any(end.exitcode for end in ends):
        raise SystemExit("an end of the transfer has failed")
    return (_children_seconds() - before) * _BYTES / size


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _run_end(end: _End, mine: socket.socket, other: socket.socket, memory: int) -> None:
    other.close()
    end(mine, memory)


def _make_memory() -> int:
    fd = os.memfd_create("ballonet-bench")
    os.ftruncate(fd, _BYTES)
    return fd


def _fill(fd: int) -> None:
    random = np.random.default_rng(1)
    for offset in range(0, _BYTES, _CALL_BYTES):
        os.pwrite(fd, random.bytes(_CALL_BYTES), offset)


def _send_stream(case: _Case, sock: socket.socket, memory: int) -> None:
    read = _memory_file(memory).read
    with SocketChannel(sock, "the destination") as channel:
        sender = StreamSender(channel, (_REGION,), read, lambda _: None)
        sender.begin(has_checksums=case.has_checksums, may_postcopy=False)
        sender.begin_pass()
        sender.send_pages(case.runs)
        sender.end()


def _receive_stream(sock: socket.socket, memory: int) -> None:
    incoming = Incoming(_memory_file(memory), (_REGION,), frozenset())
    with SocketChannel(sock, "the source") as channel:
        receive_until_runnable(channel, RecordReader(FORWARD), incoming)


def _memory_file(fd: int) -> MemoryFile:
    return MemoryFile([(Region(_REGION.gpa, _REGION.size, 0, 0), fd)])


def _send_plain(size: int, sock: socket.socket, memory: int) -> None:
    buffer = bytearray(_CALL_BYTES)
    for offset in range(0, size, _CALL_BYTES):
        os.preadv(memory, [buffer], offset)
        sock.sendall(buffer)


def _receive_plain(size: int, sock: socket.socket, memory: int) -> None:
    buffer = bytearray(_CALL_BYTES)
    for offset in range(0, size, _CALL_BYTES):
        sock.recv_into(buffer, 0, socket.MSG_WAITALL)
        os.pwrite(memory, buffer, offset)
