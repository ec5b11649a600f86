"""userfaultfd: a process's own memory, watched for writes or for accesses to what is not there.

Thin: each call of the kernel once, its structures beside it.  Not here: what is done about it
(tracking, missing).  Addresses are those of the process that opened the descriptor, whoever uses
it: it can be handed to another process, which then serves the faults of the first.
Source: Linux include/uapi/linux/userfaultfd.h, ioctl_userfaultfd(2).  Units: bytes.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select
import struct
from enum import IntFlag
from typing import Final

import numpy as np

from ballonet.errors import MigrationError, SystemCallError

__all__ = ["Feature", "Mode", "Userfault"]

_SYS_USERFAULTFD: Final = {"x86_64": 323, "aarch64": 282}.get(os.uname().machine)
_DEVICE: Final = "/dev/userfaultfd"
_USER_MODE_ONLY: Final = 1
_API: Final = 0xAA

#: struct uffdio_api { u64 api; u64 features; u64 ioctls; }
_API_STRUCT: Final = struct.Struct("=QQQ")
#: struct uffdio_register { u64 start; u64 len; u64 mode; u64 ioctls; }
_REGISTER_STRUCT: Final = struct.Struct("=QQQQ")
#: struct uffdio_range { u64 start; u64 len; }
_RANGE_STRUCT: Final = struct.Struct("=QQ")
#: struct uffdio_writeprotect { u64 start; u64 len; u64 mode; }
_PROTECT_STRUCT: Final = struct.Struct("=QQQ")
#: struct uffdio_copy { u64 dst; u64 src; u64 len; u64 mode; s64 copy; }
_COPY_STRUCT: Final = struct.Struct("=QQQQq")
#: struct uffdio_zeropage { u64 start; u64 len; u64 mode; s64 zeropage; }
_ZERO_STRUCT: Final = struct.Struct("=QQQq")
#: struct uffd_msg { u8 event; u8, u16, u32 reserved; u64 flags; u64 address; u64 }, of a page fault
_MESSAGE: Final = struct.Struct("=BBHIQQQ")
_EVENT_PAGEFAULT: Final = 0x12
_MESSAGES_MAX: Final = 64  # read at once

_PROTECT_ON: Final = 1  # UFFDIO_WRITEPROTECT_MODE_WP
_PROTECTED: Final = 2  # UFFDIO_COPY_MODE_WP
_READ, _READ_WRITE = 2, 3  # directions of _IOR and _IOWR [asm-generic/ioctl.h]


def _request(direction: int, number: int, layout: struct.Struct) -> int:
    """The number of an ioctl."""
    return direction << 30 | layout.size << 16 | _API << 8 | number


_NEW: Final = _API << 8  # USERFAULTFD_IOC_NEW, of the device
_UFFDIO_API: Final = _request(_READ_WRITE, 0x3F, _API_STRUCT)
_UFFDIO_REGISTER: Final = _request(_READ_WRITE, 0x00, _REGISTER_STRUCT)
_UFFDIO_UNREGISTER: Final = _request(_READ, 0x01, _RANGE_STRUCT)
_UFFDIO_WAKE: Final = _request(_READ, 0x02, _RANGE_STRUCT)
_UFFDIO_COPY: Final = _request(_READ_WRITE, 0x03, _COPY_STRUCT)
_UFFDIO_ZEROPAGE: Final = _request(_READ_WRITE, 0x04, _ZERO_STRUCT)
_UFFDIO_WRITEPROTECT: Final = _request(_READ_WRITE, 0x06, _PROTECT_STRUCT)

_libc: Final = ctypes.CDLL(None, use_errno=True)


class Feature(IntFlag):
    """What a kernel may be able to do: UFFD_FEATURE_*."""

    MISSING_SHMEM = 1 << 5
    WP_HUGETLBFS_SHMEM = 1 << 12  #: since Linux 5.19
    WP_UNPOPULATED = 1 << 13  #: what is not there is protected too; since Linux 6.4
    WP_ASYNC = 1 << 15  #: the kernel itself lets a write go on, and notes it; since Linux 6.7


class Mode(IntFlag):
    """What memory is watched for: UFFDIO_REGISTER_MODE_*."""

    MISSING = 1
    WRITE_PROTECT = 2


class Userfault:
    """An open userfaultfd; owns its descriptor."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @classmethod
    def open(cls, features: Feature, *, user_mode_only: bool) -> Userfault:
        """A new one, for the memory of this process.

        With `user_mode_only` nobody waits for an access that the kernel makes for the process, in a
        system call; it fails.  That needs no privilege.
        Raises: MigrationError, where this process may not, or the kernel cannot.
        """
        flags = os.O_CLOEXEC | os.O_NONBLOCK | (_USER_MODE_ONLY if user_mode_only else 0)
        fd = _open_by_call(flags)
        if fd < 0:
            fd = _open_by_device(flags)
        try:
            request = bytearray(_API_STRUCT.pack(_API, features, 0))
            fcntl.ioctl(fd, _UFFDIO_API, request)
        except OSError as error:
            os.close(fd)
            names = ", ".join(str(one.name) for one in Feature if one in features)
            raise MigrationError(
                f"this kernel's userfaultfd lacks one of {names}: {error.strerror}; Linux 6.7 has"
                " them all"
            ) from error
        return cls(fd)

    def register(self, address: int, length: int, mode: Mode) -> None:
        """Watch a range. Raises: SystemCallError."""
        self._call(_UFFDIO_REGISTER, "watching", _REGISTER_STRUCT.pack(address, length, mode, 0))

    def unregister(self, address: int, length: int) -> None:
        """Watch it no longer; whoever waits there goes on. Raises: SystemCallError.

        The kernel wakes those who wait before it has ended the watch, and whoever comes between the
        two would wait for ever: seen with Linux 6.18, where a fault takes the lock of its VMA only
        (userfaultfd_unregister).
        """
        self._call(_UFFDIO_UNREGISTER, "no longer watching", _RANGE_STRUCT.pack(address, length))
        self.wake(address, length)

    def protect(self, address: int, length: int) -> None:
        """Have the next write to each page noticed. Raises: SystemCallError."""
        request = _PROTECT_STRUCT.pack(address, length, _PROTECT_ON)
        self._call(_UFFDIO_WRITEPROTECT, "protecting", request)

    def unprotect(self, address: int, length: int) -> None:
        """Let it be written; whoever waits to write goes on. Raises: SystemCallError."""
        request = _PROTECT_STRUCT.pack(address, length, 0)
        self._call(_UFFDIO_WRITEPROTECT, "no longer protecting", request)

    def copy(self, address: int, content: bytes | memoryview, *, protected: bool = False) -> None:
        """Put whole pages where none are, and let whoever waits for them go on.

        If they are `protected`, they can be read, but not written before `unprotect`.
        Raises: SystemCallError; FileExistsError is its cause if one of the pages is there.
        """
        mode = _PROTECTED if protected else 0
        source = int(np.frombuffer(content, np.uint8).ctypes.data)
        done, length = 0, len(content)
        while done < length:
            layout = (address + done, source + done, length - done, mode, 0)
            done += self._fill(_UFFDIO_COPY, _COPY_STRUCT, layout)

    def zero(self, address: int, length: int) -> None:
        """Put zeros where no page is; else as `copy`."""
        done = 0
        while done < length:
            layout = (address + done, length - done, 0, 0)
            done += self._fill(_UFFDIO_ZEROPAGE, _ZERO_STRUCT, layout)

    def wake(self, address: int, length: int) -> None:
        """Let whoever waits there look again. Raises: SystemCallError."""
        self._call(_UFFDIO_WAKE, "waking", _RANGE_STRUCT.pack(address, length))

    def read_faults(self) -> list[int]:
        """Addresses that somebody waits at, some pages perhaps twice; does not wait.

        Raises: SystemCallError.
        """
        try:
            raw = os.read(self.fd, _MESSAGES_MAX * _MESSAGE.size)
        except BlockingIOError:
            return []
        except OSError as error:
            raise _failed("reading", "userfaultfd", error) from error
        messages = _MESSAGE.iter_unpack(raw)
        return [address for event, *_, address, _ in messages if event == _EVENT_PAGEFAULT]

    def wait(self, other_fd: int) -> bool:
        """Until there is a fault, or something at another descriptor; False for the latter."""
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        poll.register(other_fd, select.POLLIN)
        return other_fd not in dict(poll.poll())

    def close(self) -> None:
        """Let go: once nobody has it any more nothing is watched, and nobody waits."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _fill(self, request: int, layout: struct.Struct, values: tuple[int, ...]) -> int:
        """One COPY or ZEROPAGE; returns the bytes it did, which may be less than all."""
        argument = bytearray(layout.pack(*values))
        try:
            fcntl.ioctl(self.fd, request, argument)
        except OSError as error:
            # The kernel's own word in the last field: bytes done, or an error's number.
            done = int(layout.unpack(argument)[-1])
            if error.errno == errno.EAGAIN:
                return max(0, done)
            raise _failed("filling", f"guest memory at {values[0]:#x}", error) from error
        return int(layout.unpack(argument)[-1])

    def _call(self, request: int, operation: str, argument: bytes) -> None:
        while True:
            try:
                fcntl.ioctl(self.fd, request, bytearray(argument))
            except OSError as error:
                if error.errno == errno.EAGAIN:  # its memory map changes at this moment
                    continue
                raise _failed(operation, "guest memory", error) from error
            return


def _open_by_call(flags: int) -> int:
    """A descriptor; -1 where the call is not known, or not for this process."""
    if _SYS_USERFAULTFD is None:
        return -1
    return int(_libc.syscall(ctypes.c_long(_SYS_USERFAULTFD), ctypes.c_int(flags)))


def _open_by_device(flags: int) -> int:
    """The same by the device, whose owner says who may. Raises: MigrationError."""
    try:
        device = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
        try:
            return fcntl.ioctl(device, _NEW, flags)
        finally:
            os.close(device)
    except OSError as error:
        raise MigrationError(
            f"userfaultfd is not allowed here ({error.strerror}): set sysctl"
            " vm.unprivileged_userfaultfd=1, or give CAP_SYS_PTRACE, or give access to"
            f" {_DEVICE}"
        ) from error


def _failed(operation: str, target: str, error: OSError) -> SystemCallError:
    return SystemCallError(operation, target, error.strerror or str(error))
