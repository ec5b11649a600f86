"""Which files have another place than memory."""

from __future__ import annotations

import os

from ballonet.memory.backing import is_on_disk


def test_what_is_in_memory_is_not_on_disk() -> None:
    fd = os.memfd_create("somewhere", os.MFD_CLOEXEC)
    try:
        assert not is_on_disk(fd)
    finally:
        os.close(fd)


def test_a_program_is_on_a_disk() -> None:
    fd = os.open("/proc/self/exe", os.O_RDONLY | os.O_CLOEXEC)
    try:
        assert is_on_disk(fd)
    finally:
        os.close(fd)
