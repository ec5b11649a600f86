"""Which pages follow a guest that has gone: kept by its machine, so that it outlives every engine.

A file without a name, a bit for each page of the guest, the first in the highest bit of its byte.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from ballonet.errors import MigrationError, SystemCallError

__all__ = ["read_missing", "write_missing"]

Pages = NDArray[np.bool_]


def write_missing(pid: int, fd: int, missing: Pages) -> None:
    """Write it into a file that process `pid` has open as `fd`. Raises: SystemCallError."""
    raw = np.packbits(missing).tobytes()
    with _opened(pid, fd, os.O_RDWR) as file:
        os.ftruncate(file, len(raw))
        os.pwrite(file, raw, 0)


def read_missing(pid: int, fd: int, pages: int) -> Pages:
    """Read it again. Raises: SystemCallError; MigrationError, if it is another guest's."""
    size = -(-pages // 8)
    with _opened(pid, fd, os.O_RDONLY) as file:
        raw = os.pread(file, size + 1, 0)
    if len(raw) != size:
        raise MigrationError(f"the list of missing pages has {len(raw)} bytes, not {size}")
    return np.unpackbits(np.frombuffer(raw, np.uint8), count=pages).astype(np.bool_)


@contextmanager
def _opened(pid: int, fd: int, flags: int) -> Iterator[int]:
    try:
        file = os.open(f"/proc/{pid}/fd/{fd}", flags | os.O_CLOEXEC)
        try:
            yield file
        finally:
            os.close(file)
    except OSError as error:
        reason = error.strerror or str(error)
        raise SystemCallError("keeping", "the list of missing pages", reason) from error
