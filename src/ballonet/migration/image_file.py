"""Image files on a disk: written whole or not at all, read with doubt.

A file in the making is FILE.partial, which only one process writes at a time.  It gets its name
when all is there; what fails removes it, and one that was left by a process that was killed is
replaced by the next.
Not here: what the bytes mean (image.py), whether they are damaged (image_check.py).
Source: open(2) O_NOFOLLOW; flock(2); fsync(2).
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, NoReturn, Self
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from ballonet.errors import SystemCallError
from ballonet.memory.discard import punch_hole
from ballonet.migration.compare import FilePages, no_report, pieces_with
from ballonet.migration.image import (
    BLOCK_PAGES,
    END_BYTES,
    HEADER_BYTES,
    EndMark,
    ImageLayout,
    pack_end,
    pack_header,
    parse_end,
    parse_header,
)
from ballonet.units import bytes_to_pages, pages_to_bytes

__all__ = ["ImageReader", "ImageWriter"]

Bools = NDArray[np.bool_]

_DRAFT: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
#: Opening a FIFO would wait for whoever writes to it.
_READ: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_CRC: Final = np.dtype("<u4")


class ImageWriter:
    """A new image, removed if it was not finished. All methods raise SystemCallError."""

    def __init__(self, path: Path, layout: ImageLayout) -> None:
        self.layout: Final = layout
        self._path, self._draft = path, path.with_name(f"{path.name}.partial")
        self._there = np.zeros(layout.pages, np.bool_)
        self._is_finished = False
        self._fd = _open_draft(self._draft, path)
        try:
            os.ftruncate(self._fd, layout.end_offset)
            self._put(pack_header(layout), 0)
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                self._fail(error)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def pages(self) -> int:
        """Pages that are there."""
        return int(np.count_nonzero(self._there))

    @property
    def copy(self) -> FilePages:
        """What was written so far, to be compared with."""
        return FilePages(self._fd, self.layout.pages, str(self._draft), self.layout.pages_offset)

    def there(self) -> Bools:
        """For each page whether it is there now."""
        return self._there

    def write(self, gpa: int, data: memoryview) -> None:
        """Put whole pages of guest memory at their place, over what stood there.

        Raises: GuestMemoryError, if they lie in no region.
        """
        index = self.layout.index_of(gpa, data.nbytes)
        self._there[index : index + bytes_to_pages(data.nbytes)] = True
        try:
            self._put(data, self.layout.pages_offset + pages_to_bytes(index))
        except OSError as error:
            self._fail(error)

    def leave_out(self, gpa: int, length: int) -> None:
        """Make holes of pages, whatever stood there.

        Raises: GuestMemoryError, if they lie in no region.
        """
        index = self.layout.index_of(gpa, length)
        at = slice(index, index + bytes_to_pages(length))
        if not self._there[at].any():
            return
        offset = self.layout.pages_offset + pages_to_bytes(index)
        try:
            try:
                punch_hole(self._fd, offset, length)
            except OSError:  # not every file system can
                self._put(bytes(length), offset)
        except OSError as error:
            self._fail(error)
        self._there[at] = False

    def finish(self, report: Callable[[int], None] = no_report) -> None:
        """Write the checksums and the END mark, and give the file its name.

        `report` is given the pages whose checksum is made.  A file of that name is replaced.
        """
        bitmap = np.packbits(self._there, bitorder="little").tobytes()
        checksums = self._checksums(report).tobytes()
        layout = self.layout
        tables = bitmap.ljust(layout.checksums_offset - layout.bitmap_offset, b"\0")
        tables += checksums.ljust(layout.pages_offset - layout.checksums_offset, b"\0")
        try:
            self._put(tables, layout.bitmap_offset)
            os.fsync(self._fd)  # else the mark may be on the disk before what it speaks for
            self._put(pack_end(EndMark(self.pages, crc32(tables))), layout.end_offset)
            os.fsync(self._fd)
            self._draft.replace(self._path)
        except OSError as error:
            self._fail(error)
        self._is_finished = True
        _sync_folder(self._path.parent)

    def close(self) -> None:
        """Remove the file unless it is finished. Safe to call again."""
        if self._fd < 0:
            return
        if not self._is_finished:
            with suppress(OSError):
                self._draft.unlink(missing_ok=True)
        os.close(self._fd)  # and with it the lock
        self._fd = -1

    def _checksums(self, report: Callable[[int], None]) -> NDArray[np.uint32]:
        checksums = np.zeros(self.layout.blocks, _CRC)
        buffer = np.empty(pages_to_bytes(BLOCK_PAGES) // 8, np.uint64)
        for block in pieces_with(self._there):
            words = buffer[: pages_to_bytes(block.stop - block.start) // 8]
            self.copy.read(block.start, words)
            checksums[block.start // BLOCK_PAGES] = crc32(words.data)
            report(block.stop)
        return checksums

    def _put(self, data: bytes | memoryview, offset: int) -> None:
        """Raises: OSError."""
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view):
            done += os.pwrite(self._fd, view[done:], offset + done)

    def _fail(self, error: OSError) -> NoReturn:
        raise _failed("writing", self._path, error) from error


class ImageReader:
    """An image that was finished; a context manager that closes it.

    Raises: SystemCallError, if it cannot be read; WireError, if it is no image or a part of one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._fd = os.open(path, _READ)
        except OSError as error:
            raise _failed("reading", path, error) from error
        try:
            self.held_bytes: Final = self._look()  #: on the disk
            self.layout: Final = parse_header(self._get(0, HEADER_BYTES))
            last = self._get(self.layout.end_offset, END_BYTES + 1)
            self.end: Final = parse_end(last, self.layout)
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        os.close(self._fd)

    @property
    def pages(self) -> FilePages:
        """The pages, of which some are not there."""
        return FilePages(self._fd, self.layout.pages, str(self._path), self.layout.pages_offset)

    def tables(self) -> Iterator[bytes]:
        """All bytes between header and pages, a piece at a time. Raises: SystemCallError."""
        end, piece = self.layout.pages_offset, pages_to_bytes(BLOCK_PAGES)
        for at in range(self.layout.bitmap_offset, end, piece):
            yield self._get_all(at, min(piece, end - at))

    def there(self, first_block: int, blocks: int) -> Bools:
        """For each page of some blocks whether it is there. Raises: SystemCallError."""
        start = first_block * BLOCK_PAGES
        pages = min(blocks * BLOCK_PAGES, self.layout.pages - start)
        raw = self._get_all(self.layout.bitmap_offset + start // 8, -(-pages // 8))
        bits = np.unpackbits(np.frombuffer(raw, np.uint8), count=pages, bitorder="little")
        return bits.astype(np.bool_)

    def checksums(self, first_block: int, blocks: int) -> NDArray[np.uint32]:
        """Checksums of some blocks. Raises: SystemCallError."""
        size = _CRC.itemsize
        blocks = min(blocks, self.layout.blocks - first_block)
        raw = self._get_all(self.layout.checksums_offset + first_block * size, blocks * size)
        return np.frombuffer(raw, _CRC)

    def _look(self) -> int:
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            raise _failed("reading", self._path, "it is not a regular file")
        return status.st_blocks * 512

    def _get_all(self, offset: int, size: int) -> bytes:
        data = self._get(offset, size)
        if len(data) < size:
            raise _failed("reading", self._path, "it was cut short")
        return data

    def _get(self, offset: int, size: int) -> bytes:
        """So many bytes, or fewer at the end of the file."""
        try:
            return os.pread(self._fd, size, offset)
        except OSError as error:
            raise _failed("reading", self._path, error) from error


def _open_draft(draft: Path, path: Path) -> int:
    """A descriptor of the draft, empty, which nobody else writes. Raises: SystemCallError."""
    try:
        if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
            raise _failed("writing", path, "something else than a file is there")
        fd = os.open(draft, _DRAFT, 0o600)
        try:
            _claim(fd, draft, path)
        except BaseException:
            os.close(fd)
            raise
    except OSError as error:
        raise _failed("writing", path, error) from error
    return fd


def _claim(fd: int, draft: Path, path: Path) -> None:
    """Lock a draft and empty it. Raises: SystemCallError, OSError."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _failed("writing", path, "somebody else is writing it") from None
    status, named = os.fstat(fd), draft.lstat()
    is_named = (status.st_dev, status.st_ino) == (named.st_dev, named.st_ino)
    if not is_named or not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        # It was finished just now, or leads to another file, which must not be overwritten.
        raise _failed("writing", path, f"{draft.name} is in the way")
    os.fchmod(fd, 0o600)
    os.ftruncate(fd, 0)


def _failed(operation: str, path: Path, reason: OSError | str) -> SystemCallError:
    text = reason.strerror or str(reason) if isinstance(reason, OSError) else reason
    return SystemCallError(operation, str(path), text)


def _sync_folder(folder: Path) -> None:
    """Make the new name last. Some file systems cannot; there it lasts as long as they say."""
    with suppress(OSError):
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
