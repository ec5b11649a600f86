"""A copy of memory shows what became of it since, holes and all."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest

from ballonet.lab.memory_copy import MemoryCopy
from ballonet.migration.compare import FilePages

PAGE = 4096
PAGES = 600


@pytest.fixture
def memory() -> Iterator[FilePages]:
    fd = os.memfd_create("memory")
    os.ftruncate(fd, PAGES * PAGE)
    yield FilePages(fd, PAGES, "memory")
    os.close(fd)


def test_changes_since_the_copy_are_told_page_by_page(memory: FilePages) -> None:
    os.pwrite(memory.fd, b"old", 5 * PAGE)
    os.pwrite(memory.fd, b"same", 7 * PAGE)
    with MemoryCopy(memory) as copy:
        copy.take()
        assert not copy.changed().any()
        os.pwrite(memory.fd, b"new", 5 * PAGE + 100)
        os.pwrite(memory.fd, b"same", 7 * PAGE)
        os.pwrite(memory.fd, b"new", 599 * PAGE)
        assert np.flatnonzero(copy.changed()).tolist() == [5, 599]
        copy.take()
        assert not copy.changed().any()
