"""Guest memory that we make: a file without a name, shared with whoever gets its descriptor."""

from __future__ import annotations

import mmap
import os
from types import TracebackType
from typing import Final, Self

from ballonet.errors import GuestError

__all__ = ["SharedFile"]


class SharedFile:
    """A memfd, mapped; a context manager. Units: bytes."""

    def __init__(self, name: str, size: int, *, huge: bool = False) -> None:
        self.size: Final = size
        self.fd = os.memfd_create(name, os.MFD_CLOEXEC | (os.MFD_HUGETLB if huge else 0))
        try:
            os.ftruncate(self.fd, size)
            self._mapping = mmap.mmap(self.fd, size)
        except OSError as error:
            os.close(self.fd)
            raise GuestError(f"no memory for a guest of {size} bytes: {error.strerror}") from error
        self.view = memoryview(self._mapping)

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
    def held_bytes(self) -> int:
        """Host memory behind it now."""
        return os.fstat(self.fd).st_blocks * 512

    def read(self, offset: int, length: int) -> bytes:
        """Contents, holes as zeros; a look through the mapping would fill them."""
        return os.pread(self.fd, length, offset)

    def close(self) -> None:
        """Give it back; what still looks at it keeps the mapping alive until it is gone."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
