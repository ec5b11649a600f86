"""What the tests of one device have in common."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.device_under_test import Device, running_device

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
