"""A file of lines that does not grow without end: when it is full it becomes its own predecessor.

A line is written with one system call and stays.  Of a program, or a host, that ended in the middle
of one there is half a line, which is no line: it is closed before the next, and passed over.
Units: bytes.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

__all__ = ["BoundedLines"]

_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
_log = logging.getLogger(__name__)


class BoundedLines:
    """Belongs to one writer; the file and its predecessor have `file_bytes` each at most."""

    def __init__(self, path: Path, file_bytes: int, what: str) -> None:
        """`what`: for whoever is told that it cannot be written down."""
        self._path, self._file_bytes, self._what = path, file_bytes, what
        self._is_closed = False  # the last line is known to be whole
        self._complaint = ""

    @property
    def _before(self) -> Path:
        return self._path.with_name(f"{self._path.name}.1")

    def write(self, lines: bytes) -> None:
        """Append whole lines; a disk that is full is no reason to fail, and is said once."""
        try:
            fd = os.open(self._path, _FLAGS, 0o600)
            try:
                size = os.fstat(fd).st_size
                if size + len(lines) > self._file_bytes:
                    self._path.replace(self._before)
                    os.close(fd)
                    fd = os.open(self._path, _FLAGS, 0o600)
                elif not self._is_closed and size and os.pread(fd, 1, size - 1) != b"\n":
                    lines = b"\n" + lines
                self._is_closed = os.write(fd, lines) == len(lines)
            finally:
                os.close(fd)
            self._complaint = ""
        except OSError as error:
            self._is_closed = False
            complaint = error.strerror or str(error)
            if complaint != self._complaint:
                _log.warning("%s are not written down: %s", self._what, complaint)
            self._complaint = complaint

    def read(self) -> Iterator[bytes]:
        """Every line, the oldest first, without its end; what is not there has none."""
        for path in (self._before, self._path):
            with suppress(OSError), open(path, "rb", opener=_opened) as file:
                for line in file:
                    if line.endswith(b"\n") and len(line) > 1:
                        yield line[:-1]


def _opened(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
