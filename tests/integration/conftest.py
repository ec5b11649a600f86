"""What the tests of one device have in common."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.device_under_test import Device, running_device
from tests.integration.memory_process import FILE_NAME
from tests.support.host_memory import UnavailableError, mounted

from ballonet.device.balloon import BalloonSettings


@pytest.fixture
def settings() -> BalloonSettings:
    """Of the device; a module that wants others has a fixture of this name."""
    return BalloonSettings()


@pytest.fixture
def device(tmp_path: Path, settings: BalloonSettings) -> Iterator[Device]:
    """On a thread of this process."""
    with running_device(tmp_path / "device", settings) as running:
        yield running


@pytest.fixture
def thp_file(tmp_path: Path) -> Iterator[int]:
    """A file that gets transparent huge pages; whoever takes it closes it."""
    try:
        with mounted("tmpfs", tmp_path / "huge", "huge=always") as folder:
            yield os.open(folder / FILE_NAME, os.O_RDWR | os.O_CREAT, 0o600)
    except UnavailableError as error:
        pytest.skip(str(error))
