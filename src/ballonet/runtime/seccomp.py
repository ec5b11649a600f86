"""A filter of system calls, for this process and all that it starts, for ever.

Source: seccomp(2), PR_SET_SECCOMP and PR_SET_NO_NEW_PRIVS of prctl(2).
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

from ballonet.errors import SystemCallError

__all__ = ["INSTRUCTION_BYTES", "filter_system_calls", "give_up_new_privileges"]

INSTRUCTION_BYTES: Final = 8  #: struct sock_filter
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = (ctypes.c_int, *(ctypes.c_ulong,) * 4)


class _FilterProgram(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("instructions", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def give_up_new_privileges() -> None:
    """No program that is executed gains any; without this only root may filter.

    Raises: SystemCallError.
    """
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise _failed("giving up new privileges")


def filter_system_calls(instructions: bytes) -> None:
    """Let the kernel ask this program, whole `INSTRUCTION_BYTES`, at each system call.

    Raises: SystemCallError.
    """
    program = _FilterProgram(len(instructions) // INSTRUCTION_BYTES, instructions)
    if _libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.addressof(program), 0, 0):
        raise _failed("filtering system calls")


def _failed(what: str) -> SystemCallError:
    return SystemCallError(what, "of this process", os.strerror(ctypes.get_errno()))
