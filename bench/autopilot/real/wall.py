"""A host that ends: a memory cgroup with a hard limit, where whoever goes beyond it is killed.

Guests' memory is a file in memory, which belongs to the group of whoever touches it first; so a
guest has to be in the group when it begins.  Needs root.
Source: Linux Documentation/admin-guide/cgroup-v1/memory.rst, cgroup-v2.rst.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from ballonet.errors import GuestError

__all__ = ["Wall", "wall_of"]


class _Names(NamedTuple):
    """Files of one version."""

    root: Path
    limit: str
    usage: str
    events: str


_V1: Final = _Names(
    Path("/sys/fs/cgroup/memory"),
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    "memory.oom_control",
)
_V2: Final = _Names(Path("/sys/fs/cgroup"), "memory.max", "memory.current", "memory.events")


class Wall:
    """One group."""

    def __init__(self, names: _Names, path: Path) -> None:
        self._names, self._path = names, path

    @property
    def used_bytes(self) -> int:
        """What all in it hold."""
        return int((self._path / self._names.usage).read_text())

    @property
    def kills(self) -> int:
        """Processes that were killed because it was full."""
        words = (self._path / self._names.events).read_text().split()
        return int(words[words.index("oom_kill") + 1]) if "oom_kill" in words else 0

    @contextmanager
    def inside(self) -> Iterator[None]:
        """What begins in the block is in it, and stays there."""
        before = _group_of_us(self._names)
        _move(self._path)
        try:
            yield
        finally:
            _move(before)


@contextmanager
def wall_of(limit_bytes: int) -> Iterator[Wall]:
    """A group of that size, which is empty again at the end. Raises: GuestError."""
    names = _V2 if (_V2.root / "cgroup.controllers").exists() else _V1
    path = names.root / f"ballonet-bench-{os.getpid()}"
    try:
        path.mkdir()
        (path / names.limit).write_text(str(limit_bytes))
    except OSError as error:
        raise GuestError(f"no memory cgroup can be made at {path}: {error.strerror}") from error
    try:
        yield Wall(names, path)
    finally:
        with suppress(OSError):  # what of it still ends
            path.rmdir()


def _group_of_us(names: _Names) -> Path:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, place = line.split(":", 2)
        if "memory" in controllers.split(",") or (names is _V2 and not controllers):
            return names.root / place.lstrip("/")
    return names.root


def _move(group: Path) -> None:
    (group / "cgroup.procs").write_text(str(os.getpid()))
