"""A real QEMU for these tests."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.programs import wait_for_listener

from ballonet.control.device_control import controlling
from ballonet.device.balloon import BalloonSettings
from ballonet.errors import GuestError
from ballonet.guests.qemu import QemuGuest
from ballonet.guests.qemu_kernel import find_qemu_kernel
from ballonet.monitor.serving import monitoring
from ballonet.qmp.version import VERSIONS
from ballonet.vhost_user.listener import listening_socket

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


@pytest.fixture(scope="module")
def bare_qemu(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The monitor of a QEMU that has no machine."""
    path = tmp_path_factory.mktemp("qemu") / "qmp"
    with subprocess.Popen(
        [
            *("qemu-system-x86_64", "-machine", "none", "-S", "-display", "none", "-nodefaults"),
            *("-qmp", f"unix:{path},server=on,wait=off"),
        ],
        stdin=subprocess.DEVNULL,
    ) as started:
        try:
            wait_for_listener(path)
            yield path
        finally:
            started.kill()


@pytest.fixture(scope="module")
def our_monitor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The monitor of a device without a guest."""
    folder = tmp_path_factory.mktemp("ours")
    with (
        listening_socket(folder / "vu") as sock,
        listening_socket(folder / "qmp") as qmp,
        controlling(BalloonSettings(), sock) as device,
        monitoring(device, [qmp], version=VERSIONS["7.2"]),
    ):
        yield folder / "qmp"
