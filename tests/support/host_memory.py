"""What the host has and holds: huge pages, file systems, resident pages, mappings.

Part of the test peer, which shares no code with the package under test.  Units: bytes.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

HUGE_BYTES: Final = 2 << 20

_POOL: Final = Path("/proc/sys/vm/nr_hugepages")
_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p)


class UnavailableError(Exception):
    """This machine, or this user, cannot have what a test needs."""


def meminfo(name: str) -> int:
    """One number of /proc/meminfo, in the unit it stands there."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise UnavailableError(f"/proc/meminfo has no {name}")


def huge_bytes_free() -> int:
    """Huge pages that anyone may still take."""
    return (meminfo("HugePages_Free") - meminfo("HugePages_Rsvd")) * HUGE_BYTES


@contextmanager
def huge_pages(count: int) -> Iterator[None]:
    """So many more huge pages of 2 MiB inside the block; the pool is as before after it.

    The lock keeps two test runs apart.  Raises: UnavailableError.
    """
    if meminfo("Hugepagesize") << 10 != HUGE_BYTES:
        raise UnavailableError("huge pages are not of 2 MiB here")
    try:
        pool = _POOL.open("r+", encoding="ascii")
    except OSError as error:
        raise UnavailableError(f"huge pages cannot be reserved: {error.strerror}") from error
    with pool:
        fcntl.flock(pool, fcntl.LOCK_EX)
        before, free = int(pool.read()), huge_bytes_free()
        with _pool_restored(before, lock=pool.fileno()):
            _POOL.write_text(str(before + count), encoding="ascii")
            if huge_bytes_free() < free + count * HUGE_BYTES:
                raise UnavailableError(f"the machine has no {count} huge pages to reserve")
            yield


@contextmanager
def _pool_restored(before: int, *, lock: int) -> Iterator[None]:
    """Leave so many huge pages after the block, even if this process is killed inside it.

    A shell does it as soon as its input ends, and keeps the lock until then.
    """
    script = 'cat > /dev/null; echo "$1" > "$2"'
    shell = subprocess.Popen(
        ["sh", "-c", script, "sh", str(before), _POOL],
        stdin=subprocess.PIPE,
        pass_fds=[lock],
        start_new_session=True,
    )
    try:
        yield
    finally:
        shell.communicate()
        if shell.returncode:
            raise AssertionError(f"the pool of huge pages was not set back to {before}")


@contextmanager
def mounted(file_system: str, folder: Path, options: str = "rw") -> Iterator[Path]:
    """A file system of its own for the block. Raises: UnavailableError."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", file_system, "-o", options, "none", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise UnavailableError(f"{file_system} cannot be mounted: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def resident_bytes(address: int, length: int) -> int:
    """What the host holds of a mapping, in our page tables or not.

    For shared memory this asks whether the pages exist, so forgetting our own mapping of them
    changes nothing; `mapped_bytes` asks that.
    """
    pages = length // mmap.PAGESIZE
    state = ctypes.create_string_buffer(pages)
    if _libc.mincore(address, length, state):
        raise OSError(ctypes.get_errno(), "mincore")
    return sum(byte & 1 for byte in state.raw[:pages]) * mmap.PAGESIZE


def mapped_bytes(address: int) -> int:
    """What our own page tables hold of the mapping an address lies in (Rss)."""
    inside = False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(found[1], 16) <= address < int(found[2], 16)
        elif inside and line.startswith("Rss:"):
            return int(line.split()[1]) << 10
    raise AssertionError(f"{address:#x} is not mapped")


def mapping_modes(name: str) -> list[str]:
    """The modes of our mappings of a file, as `rw-s`: shared, or `rw-p`: private."""
    lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    return [line.split()[1] for line in lines if name in line]
