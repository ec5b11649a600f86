"""The memory barrier that rings need, from Python."""

from __future__ import annotations

from threading import Lock

__all__ = ["full_fence"]

_lock = Lock()


def full_fence() -> None:
    """Order every earlier memory access before every later one.

    Taking a lock is an atomic read-modify-write, which x86 and CPython's lock on Arm make a full
    barrier; the lock is never contended for longer than this function.
    """
    with _lock:
        pass
