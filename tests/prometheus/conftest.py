"""A real Prometheus for these tests."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks at the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder needs Prometheus, and sees what runs on this machine, by name."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.prometheus)
            item.add_marker(pytest.mark.xdist_group("machines by name"))


@pytest.fixture(scope="session", autouse=True)
def prometheus_programs() -> None:
    """A machine without Prometheus skips these tests aloud, or fails where it is required."""
    missing = [one for one in ("prometheus", "promtool") if shutil.which(one) is None]
    if missing:
        reason = f"there is no {' and no '.join(missing)}: Debian's package prometheus has them"
        if "prometheus" in os.environ.get("BALLONET_REQUIRE", "").split(","):
            pytest.fail(f"Prometheus is required: {reason}")
        pytest.skip(f"no Prometheus to test with: {reason}")
