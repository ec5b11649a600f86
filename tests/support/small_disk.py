"""A file system of a few pages, to be filled and emptied.

Part of the test peer, which shares no code with the package under test.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.support.host_memory import UnavailableError, mounted

_CHUNK = bytes(4096)


@dataclass(frozen=True, slots=True)
class SmallDisk:
    """Where it is mounted."""

    path: Path

    def fill(self) -> None:
        """Leave no byte."""
        with (self.path / "ballast").open("ab", buffering=0) as ballast:
            try:
                while ballast.write(_CHUNK):
                    pass
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise

    def free(self) -> None:
        """Leave as much as there was at first."""
        (self.path / "ballast").unlink()


@contextmanager
def small_disk(folder: Path, size: str = "64k") -> Iterator[SmallDisk]:
    """Mount one for the block; the test is skipped where that is not allowed."""
    try:
        with mounted("tmpfs", folder, f"size={size}") as path:
            yield SmallDisk(path)
    except UnavailableError as error:
        pytest.skip(str(error))
