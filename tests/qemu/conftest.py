"""A real QEMU for these tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ballonet.errors import GuestError
from ballonet.guests.qemu import QemuGuest, find_qemu_kernel

MEMORY_BYTES = 512 << 20


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder needs QEMU."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.qemu)


@pytest.fixture(scope="session", autouse=True)
def qemu_kernel() -> None:
    """A machine without QEMU skips these tests aloud, or fails where they are required."""
    try:
        find_qemu_kernel()
    except GuestError as error:
        if "qemu" in os.environ.get("BALLONET_REQUIRE", "").split(","):
            pytest.fail(f"QEMU is required: {error}")
        pytest.skip(f"no QEMU to test against: {error}")


@pytest.fixture
def qemu() -> Iterator[QemuGuest]:
    """A QEMU of 512 MiB whose guest has a balloon."""
    with QemuGuest(MEMORY_BYTES) as running:
        yield running
