"""The memory of any User-Mode Linux of this machine, found by the number of its kernel's process.

It is a file without a name, which all its processes map; guest memory address and offset in the
file are the same.  The file is longer than `mem=`: it begins with a hole, as long as the addresses
between the beginning of the kernel's own program and that of its memory.
Source: Linux arch/um/os-Linux/mem.c, create_mem_file; arch/um/kernel/physmem.c, setup_physmem,
which maps it to be executed, as nobody else does with shared memory.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from ballonet.errors import GuestError
from ballonet.migration.compare import FilePages
from ballonet.units import BALLOON_PAGE_BYTES, bytes_to_pages

__all__ = ["uml_memory"]

_SHARED: Final = "rwxs"  #: permissions in proc(5) maps
_GONE: Final = " (deleted)"


@contextmanager
def uml_memory(pid: int) -> Iterator[FilePages]:
    """Pages of the guest whose kernel is this process, open for reading.

    Raises: GuestError, if it is no kernel of a User-Mode Linux, or not ours to look into.
    """
    fd = _open_memory(pid)
    try:
        kernel = _parent_alike(pid)
        if kernel:
            # To stop it would look like a signal in the guest.
            raise GuestError(f"process {pid} belongs to the guest of process {kernel}: name that")
        size = os.fstat(fd).st_size
        if not size or size % BALLOON_PAGE_BYTES:
            raise GuestError(f"the memory of process {pid} has {size} bytes, not whole pages")
        yield FilePages(fd, bytes_to_pages(size), f"the memory of process {pid}")
    finally:
        os.close(fd)


def _parent_alike(pid: int) -> int:
    """The parent, if it runs the same program, as all processes of a guest do; else 0.

    Raises: GuestError.
    """
    try:
        program = Path(f"/proc/{pid}/exe").stat()
        lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
    except OSError as error:
        raise _failed(pid, error) from error
    parent = next(int(line.split()[1]) for line in lines if line.startswith("PPid:"))
    with suppress(OSError):  # gone, or somebody else's
        if os.path.samestat(program, Path(f"/proc/{parent}/exe").stat()):
            return parent
    return 0


def _open_memory(pid: int) -> int:
    """A descriptor of our own of the memory file. Raises: GuestError."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines()
        links = list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError as error:
        raise _failed(pid, error) from error
    rows = [line.split(maxsplit=5) for line in lines]
    mapped = {row[5] for row in rows if row[1] == _SHARED and row[5:]}
    for link in links:
        with suppress(OSError):
            target = str(link.readlink())
            if target.endswith(_GONE) and target in mapped and stat.S_ISREG(link.stat().st_mode):
                return os.open(link, os.O_RDONLY | os.O_CLOEXEC)
    if _has_ended(pid):
        raise GuestError(f"there is no process {pid}")
    raise GuestError(f"process {pid} is no User-Mode Linux: it has no memory file")


def _has_ended(pid: int) -> bool:
    """It is gone, or only its parent does not know yet; either has neither maps nor descriptors."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2]
    except OSError:
        return True
    return fields.split()[0] in "ZX"


def _failed(pid: int, error: OSError) -> GuestError:
    if isinstance(error, FileNotFoundError | ProcessLookupError):
        return GuestError(f"there is no process {pid}")
    return GuestError(f"process {pid} cannot be looked into: {error.strerror}")
