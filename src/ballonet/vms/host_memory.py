"""What the host really holds for a guest, measured from outside its VMM by its process's number.

Of private memory that is what the VMM's page tables and swap hold.  Shared memory is a file, which
others (a vhost-user back-end) may have touched where the VMM has not: its blocks count, where the
file is memory; of one on a disk, what is mapped.  Nothing is changed by looking.
Units: bytes, seconds.
Source: proc_pid_smaps(5), proc_pid_map_files(5); Linux mm/shmem.c counts what is swapped out as
blocks, too.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from ballonet.vms.in_thread import in_thread
from ballonet.vms.mappings import MemoryArea, find_guest_memory, parse_mappings
from ballonet.vms.observation import HostMemory, Observation
from ballonet.vms.unix_sockets import SocketTable

__all__ = ["measure_host_memory", "with_host_memory"]

#: Whose blocks are memory.  A memfd is in no list of mounts.
_IN_MEMORY: Final = frozenset({"tmpfs", "hugetlbfs", "ramfs", "devtmpfs"})
_BLOCK_BYTES: Final = 512
#: A TiB of touched pages of 4 KiB takes about as long.
_MEASURE_S: Final = 3.0


def measure_host_memory(pid: int | None, ram_bytes: int | None) -> HostMemory:
    """What the host holds for a guest of so much memory, whose VMM has this number."""
    if pid is None:
        return HostMemory(None, "its process is not known")
    if not ram_bytes:
        return HostMemory(None, "how much memory it has is not known")
    try:
        held_bytes = _held_bytes(pid, ram_bytes)
    except PermissionError:
        return HostMemory(None, f"this user may not look at the memory of process {pid}")
    except OSError:
        return HostMemory(None, f"process {pid} is gone")
    if held_bytes is None:
        return HostMemory(None, f"which memory of process {pid} is the guest's is not clear")
    return HostMemory(held_bytes)


async def with_host_memory(look: Observation, path: Path) -> Observation:
    """A look with that, and with the VMM's process, which serves the socket at a path.

    The kernel walks all the guest's memory for it, unless the VMM keeps it waiting.
    """
    try:
        async with asyncio.timeout(_MEASURE_S):
            return await in_thread(lambda: _with_host_memory(look, path))
    except TimeoutError:
        return replace(look, host=HostMemory(None, f"measuring takes more than {_MEASURE_S:.0f} s"))


def _with_host_memory(look: Observation, path: Path) -> Observation:
    who = look.who
    if who.pid is None:
        server = SocketTable().server_of(path)
        who = replace(who, pid=None if server is None else server.pid)
    return replace(look, who=who, host=measure_host_memory(who.pid, look.memory_bytes))


def _held_bytes(pid: int, ram_bytes: int) -> int | None:
    """None: it is not clear which memory is the guest's. Raises: OSError."""
    areas = _guest_areas(pid, "maps", ram_bytes)
    in_files = [_file_bytes(pid, area) for area in areas]
    if None in in_files:  # only now has the kernel to walk all page tables of the process
        areas = _guest_areas(pid, "smaps", ram_bytes)
        in_files = [_file_bytes(pid, area) for area in areas]
    if not areas:
        return None
    return sum(
        area.held_bytes if in_file is None else in_file
        for area, in_file in zip(areas, in_files, strict=True)
    )


def _guest_areas(pid: int, name: str, ram_bytes: int) -> tuple[MemoryArea, ...]:
    text = Path(f"/proc/{pid}/{name}").read_text(encoding="utf-8", errors="replace")
    return find_guest_memory(parse_mappings(text), ram_bytes)


def _file_bytes(pid: int, area: MemoryArea) -> int | None:
    """Of shared memory whose file is memory; None: what the process has mapped counts."""
    if area.is_shared:
        for status in _open_files(pid, area):
            if _is_in_memory(status):
                return status.st_blocks * _BLOCK_BYTES
    return None


def _open_files(pid: int, area: MemoryArea) -> Iterator[os.stat_result]:
    """The file of an area, by its mapping or a descriptor, if this user may look at either."""
    with suppress(OSError):
        yield Path(f"/proc/{pid}/map_files/{area.span}").stat()
    major, minor = (int(part, 16) for part in area.device.split(":"))
    with suppress(OSError):
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                status = fd.stat()
                if (status.st_dev, status.st_ino) == (os.makedev(major, minor), area.inode):
                    yield status


def _is_in_memory(status: os.stat_result) -> bool:
    """The file's blocks are memory, as of a memfd; on a disk they are not."""
    device = f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"
    with suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
            fields, _, rest = line.partition(" - ")
            if fields.split()[2] == device:
                return rest.split()[0] in _IN_MEMORY
        return os.major(status.st_dev) == 0
    return False
