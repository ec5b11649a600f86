"""Files that survive a crash: small, written whole, read with doubt.

A reader sees the old contents or the new ones, never a part, even if the machine stops between.
The draft is made anew and never followed, so a link that somebody planted in its place is refused.
Source: open(2) O_EXCL, O_NOFOLLOW; fsync(2) on why the folder is synced too.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Final

from ballonet.errors import SystemCallError

__all__ = ["put_aside", "read_small", "write_whole"]

#: Longer than anything we write; who reads more reads somebody else's file.
SMALL_BYTES: Final = 1 << 20

_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
#: Opening a FIFO would wait for whoever writes to it.
_READ: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def write_whole(path: Path, text: str) -> None:
    """Put text in place of a file's, all or none of it; only the owner may read it.

    Raises: SystemCallError; the file is as before then.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.unlink(missing_ok=True)  # of a process of the same number that was killed
        try:
            _write_new(draft, text.encode())
            draft.replace(path)
        except BaseException:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise SystemCallError("writing", str(path), error.strerror or str(error)) from error


def read_small(path: Path) -> bytes | None:
    """All of a file, or None if there is none.

    Raises: SystemCallError, if it cannot be read; ValueError, if it is longer than SMALL_BYTES.
    """
    try:
        with os.fdopen(os.open(path, _READ), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise SystemCallError("reading", str(path), "it is not a regular file")
            data = file.read(SMALL_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SystemCallError("reading", str(path), error.strerror or str(error)) from error
    if len(data) > SMALL_BYTES:
        raise ValueError(f"more than {SMALL_BYTES} bytes")
    return data


def put_aside(path: Path) -> Path:
    """Give a file another name that is free, so that nothing overwrites it; returns the name.

    Raises: SystemCallError.
    """
    names = (path.with_name(f"{path.name}.bad{number or ''}") for number in count())
    aside = next(name for name in names if not os.path.lexists(name))
    try:
        path.rename(aside)
    except OSError as error:
        raise SystemCallError("putting aside", str(path), error.strerror or str(error)) from error
    return aside


def _write_new(path: Path, data: bytes) -> None:
    """Raises: OSError, if something stands there."""
    with os.fdopen(os.open(path, _NEW, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())  # else the new name may be on the disk before the contents


def _sync_folder(folder: Path) -> None:
    """Make a new name last. Some file systems cannot; there it lasts as long as they say."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):
            os.fsync(fd)
    finally:
        os.close(fd)
