"""Machines with our own kernel, of which one has a guest and the others wait for it.

Each is two processes as a user starts them, guest and device; the guest moves by its monitor.
Units: bytes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ballonet.errors import GuestError
from ballonet.guests.machine_process import MachineProcess, MachineSettings
from ballonet.guests.processes import PrivateDirectory
from ballonet.lab.waiting import wait_until
from ballonet.migration.compare import CompareTracker, FilePages
from ballonet.units import BALLOON_PAGE_BYTES

__all__ = [
    "KERNEL",
    "begin_migration",
    "differing_pages",
    "finished_migration",
    "machines",
    "memory_of",
    "steps_of",
]

#: For the notebook.
KERNEL: Final = "ballonet's own kernel, in processes that are moved by ballonet"

_MEMORY_FILE: Final = "memfd:ballonet-guest"
_ENDED: Final = frozenset({"completed", "failed", "cancelled", "postcopy-paused"})


@contextmanager
def machines(count: int, memory_bytes: int) -> Iterator[tuple[Path, list[MachineProcess]]]:
    """A directory of their own, and the machines; the first has the guest. Raises: GuestError."""
    with ExitStack() as stack:
        directory = stack.enter_context(PrivateDirectory("ballonet-lab-", mark="{}/"))
        found = [
            stack.enter_context(
                MachineProcess(
                    directory,
                    f"machine{number}",
                    MachineSettings(memory_bytes, waits_for_guest=number > 0),
                )
            )
            for number in range(count)
        ]
        yield directory, found


def begin_migration(
    source: MachineProcess,
    uri: str,
    capabilities: Mapping[str, bool],
    parameters: Mapping[str, int],
) -> None:
    """Have the guest move. Raises: MonitorError."""
    rows = [{"capability": name, "state": state} for name, state in capabilities.items()]
    source.execute("migrate-set-capabilities", capabilities=rows)
    source.execute("migrate-set-parameters", **parameters)
    source.execute("migrate", uri=uri)


def finished_migration(source: MachineProcess) -> dict[str, Any]:
    """What `query-migrate` says when the guest has moved. Raises: GuestError, if it does not."""

    def has_ended() -> bool:
        return source.execute("query-migrate")["status"] in _ENDED

    wait_until(has_ended, "the migration does not end")
    look: dict[str, Any] = source.execute("query-migrate")
    if look["status"] != "completed":
        raise GuestError(f"the guest does not move: {look.get('error-desc', look['status'])}")
    return look


def steps_of(source: MachineProcess) -> list[str]:
    """What the migration of a guest has done so far, in order. Raises: MonitorError."""
    return [str(step["what"]) for step in source.execute("query-migrate")["x-ballonet-steps"]]


@contextmanager
def memory_of(machine: MachineProcess) -> Iterator[FilePages]:
    """Memory of the guest there, open for reading. Raises: GuestError, if it has none."""
    fd = _open_memory(machine.pid)
    try:
        pages = os.fstat(fd).st_size // BALLOON_PAGE_BYTES
        yield FilePages(fd, pages, f"the memory of process {machine.pid}")
    finally:
        os.close(fd)


def differing_pages(one: FilePages, other: FilePages) -> NDArray[np.bool_]:
    """Which pages are not the same in both; a hole is zeros. Raises: SystemCallError."""
    return CompareTracker(one, other, other.held).scan()


def _open_memory(pid: int) -> int:
    for link in Path(f"/proc/{pid}/fd").iterdir():
        if _MEMORY_FILE in str(link.readlink()):
            return os.open(link, os.O_RDONLY | os.O_CLOEXEC)
    raise GuestError(f"process {pid} has no guest memory")
