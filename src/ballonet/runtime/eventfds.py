"""Signal an eventfd that somebody hostile shares, without ever waiting.

write(2) on an eventfd waits while its counter is full, unless the open file is non-blocking.  Who
shares the open file may fill the counter and change that flag at any moment, so to look or to set
it first is no help, and RWF_NOWAIT is not taken for writes.  The kernel's own signal never waits:
an asynchronous read that ends adds one to the eventfd named with it, and a full counter stays full.
A read of nothing ends within the call, so this costs 4 µs where a write costs 1.
Source: io_submit(2), IOCB_FLAG_RESFD; Linux fs/eventfd.c eventfd_signal_mask, fs/aio.c.
"""

from __future__ import annotations

import ctypes
import os
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final
from weakref import finalize

__all__ = ["is_eventfd", "signal_eventfd"]

#: io_setup, io_destroy, io_submit.
_CALLS: Final = {"x86_64": (206, 207, 209), "aarch64": (0, 1, 2), "riscv64": (0, 1, 2)}
_SETUP, _DESTROY, _SUBMIT = _CALLS.get(os.uname().machine, (None, None, None))
_READ, _SIGNALS = 0, 1  # IOCB_CMD_PREAD, IOCB_FLAG_RESFD
_HEAD, _TAIL, _RING_WORDS = 2, 3, 8  # of struct aio_ring, which io_setup maps
_ONE: Final = (1).to_bytes(8, "little")

_syscall: Final = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long
_per_thread = threading.local()


class _Request(ctypes.Structure):
    """struct iocb of a little-endian host."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("key", ctypes.c_uint32),
        ("rw_flags", ctypes.c_int32),
        ("opcode", ctypes.c_uint16),
        ("priority", ctypes.c_int16),
        ("fd", ctypes.c_uint32),
        ("buffer", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("offset", ctypes.c_int64),
        ("reserved", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("signalled_fd", ctypes.c_uint32),
    )


def signal_eventfd(fd: int) -> None:
    """Add one to an eventfd's counter, unless it is full; never waits, and never fails.

    Where the kernel has no asynchronous reads or forbids them, the open file is made non-blocking
    for a write, and a hostile owner can still stop this thread.
    """
    context: _Context | None = getattr(_per_thread, "context", None)
    if context is None or context.pid != os.getpid():  # a child has none of its parent's
        context = _per_thread.context = _Context()
    if not context.signal(fd):
        with suppress(OSError):
            os.set_blocking(fd, False)
            os.write(fd, _ONE)


def is_eventfd(fd: int) -> bool:
    """Whether a descriptor is an eventfd; nothing is asked of whatever else it may be."""
    return str(Path(f"/proc/self/fd/{fd}").readlink()) == "anon_inode:[eventfd]"


class _Context:
    """What the kernel needs for asynchronous requests; of one thread, in one process."""

    def __init__(self) -> None:
        self.pid: Final = os.getpid()
        self._handle = ctypes.c_ulong(0)
        self._nothing_fd = -1
        with suppress(OSError):  # no descriptor is left: the kernel refuses each request then
            self._nothing_fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._request = _Request(opcode=_READ, fd=self._nothing_fd & 0xFFFF_FFFF, flags=_SIGNALS)
        requests = (ctypes.c_void_p * 1)(ctypes.addressof(self._request))
        number = ctypes.c_long(_SUBMIT or 0)
        self._submit = partial(_syscall, number, self._handle, ctypes.c_long(1), requests)
        if _SETUP is not None and not _call(_SETUP, 1, ctypes.byref(self._handle)):
            self._ring = (ctypes.c_uint32 * _RING_WORDS).from_address(self._handle.value)
        ending = finalize(self, _give_up, self.pid, self._handle.value, self._nothing_fd)
        ending.atexit = False  # the kernel clears up after a process

    def signal(self, fd: int) -> bool:
        """False: the kernel refuses."""
        if not self._handle.value:
            return False
        self._request.signalled_fd = fd
        if self._submit() != 1:
            return False
        self._ring[_HEAD] = self._ring[_TAIL]  # its end is known, and makes room for the next
        return True


def _give_up(pid: int, handle: int, nothing_fd: int) -> None:
    """A thread has ended; its context took memory of this process, or of its parent."""
    if pid != os.getpid():
        return  # the parent's; by now its descriptor may be something else here
    if handle:
        _call(_DESTROY, ctypes.c_ulong(handle))
    if nothing_fd >= 0:
        os.close(nothing_fd)


def _call(number: int | None, *arguments: object) -> int:
    return int(_syscall(ctypes.c_long(number or 0), *arguments))
