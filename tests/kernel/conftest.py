"""Real kernels for these tests: one guest a module, because a boot takes seconds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ballonet.device.balloon import BalloonSettings
from ballonet.errors import GuestError
from ballonet.guests.ballooned import BalloonedGuest
from ballonet.guests.kernel_package import find_kernel_package
from ballonet.guests.linux import LinuxGuestSettings
from ballonet.virtio.features import RING_FEATURES, Feature

MEMORY_BYTES = 1 << 30


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder needs a kernel; the tests of a module share one."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.kernel)
            if item.get_closest_marker("xdist_group") is None:
                item.add_marker(pytest.mark.xdist_group(item.path.stem))


@pytest.fixture(scope="session", autouse=True)
def kernel_release() -> str:
    """A machine without a kernel skips these tests aloud, or fails where they are required."""
    try:
        return find_kernel_package().release
    except GuestError as error:
        if "kernel" in os.environ.get("BALLONET_REQUIRE", "").split(","):
            pytest.fail(f"a kernel is required: {error}")
        pytest.skip(f"no kernel to test on: {error}")


def start(
    offered: Feature = Feature.MUST_TELL_HOST | Feature.STATS_VQ, memory_bytes: int = MEMORY_BYTES
) -> BalloonedGuest:
    """A guest whose device offers these features of a balloon."""
    return BalloonedGuest(
        LinuxGuestSettings(memory_bytes), BalloonSettings(RING_FEATURES | offered)
    )


@pytest.fixture(scope="module")
def machine() -> Iterator[BalloonedGuest]:
    """A guest of 1 GiB with the default device."""
    with start() as running:
        yield running
