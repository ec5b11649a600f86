"""The walks of docs/architecture.md pass the files that they name, in the code as it is."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest
from tests.integration.device_under_test import running_device
from tests.support.qmp_client import QmpClient
from tests.support.scripts import start_uml
from tests.support.wait import wait_until

import ballonet
from ballonet.monitor.serving import monitoring
from ballonet.vhost_user.listener import listening_socket

SOURCE = Path(ballonet.__file__).parent
DOCUMENT = Path(__file__).parents[2] / "docs" / "architecture.md"
PAGES = 200
PAGE_NUMBER, COMMAND = "The way of one page number", "The way of a `balloon` command"


def named(heading: str) -> list[str]:
    """Files of the numbered steps of a section."""
    section = DOCUMENT.read_text(encoding="utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
    steps = re.findall(r"^\d\. .*(?:\n   .*)*", section, re.MULTILINE)
    return [name for step in steps for name in re.findall(r"`([a-z_/]+\.py)`", step)]


@contextmanager
def passing() -> Iterator[set[str]]:
    """Files of ballonet whose functions are called inside the block, on threads begun in it."""
    passed: set[str] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            path = Path(frame.f_code.co_filename)
            if path.is_relative_to(SOURCE):
                passed.add(str(path.relative_to(SOURCE)))

    before = sys.getprofile()
    threading.setprofile(note)
    try:
        yield passed
    finally:
        threading.setprofile(before)


@pytest.mark.parametrize(
    "heading", ["The way of one page number", "The way of a `balloon` command"]
)
def test_every_file_of_a_walk_is_there(heading: str) -> None:
    files = named(heading)
    assert len(files) >= 5
    assert [name for name in files if not (SOURCE / name).is_file()] == []


def test_a_page_number_passes_the_files_of_its_walk(tmp_path: Path) -> None:
    with passing() as passed, running_device(tmp_path / "b") as device, start_uml(device) as guest:
        first, _ = guest.free_range()
        passed.clear()
        guest.inflate(range(first, first + PAGES))
        device.rest()
        assert set(named(PAGE_NUMBER)) <= passed


def test_a_command_passes_the_files_of_its_walk(tmp_path: Path) -> None:
    with (
        passing() as passed,
        running_device(tmp_path / "b") as device,
        start_uml(device) as guest,
        listening_socket(tmp_path / "qmp") as sock,
        monitoring(device.control, [sock]),
        QmpClient(tmp_path / "qmp").negotiate() as client,
    ):
        passed.clear()
        size = device.status().guest_bytes - PAGES * 4096
        assert client.ask("balloon", value=size) == {"return": {}}
        guest.front_end.read_backend_message()
        wait_until(lambda: guest.read_num_pages() == PAGES, 60, "the target does not arrive")
        assert set(named(COMMAND)) <= passed
