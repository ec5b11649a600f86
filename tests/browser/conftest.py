"""A real Chromium for these tests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

#: A program that draws without a screen, and that nobody else's pages run in.
_ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """They see what runs on this machine, by name: one after the other."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.browser)
            item.add_marker(pytest.mark.kernel)
            item.add_marker(pytest.mark.xdist_group("machines by name"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for the tests of a module."""
    program = shutil.which("chromium")
    if program is None:
        if "browser" in os.environ.get("BALLONET_REQUIRE", "").split(","):
            pytest.fail("a browser is required: apt-get install chromium")
        pytest.skip("there is no chromium")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=list(_ARGUMENTS))
        yield chromium
        chromium.close()
