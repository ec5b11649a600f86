"""Guest memory for checks in one process: each end has a mapping of its own, as two programs have.

A page that the host has dropped is a hole in the file, and reads as zeros without being filled.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

from ballonet.memory.mapping import GuestMemory
from ballonet.memory.regions import Region
from ballonet.memory.shared_file import SharedFile

__all__ = ["shared_memory"]


@contextmanager
def shared_memory(size: int) -> Iterator[tuple[SharedFile, GuestMemory]]:
    """Memory from address 0 on, in bytes: as the guest sees it, and as its host does."""
    with SharedFile("ballonet-conform", size) as file, closing(GuestMemory()) as of_host:
        of_host.replace([Region(gpa=0, size=size, uva=0, file_offset=0)], [file.fd])
        yield file, of_host
