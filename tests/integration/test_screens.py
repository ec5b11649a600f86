"""What `list`, `top` and `info` look like in a real terminal of 60, 80 and 120 columns.

The screens in `screens/` were looked at by a person.  Figures are masked, with their places kept: a
head that leaves its column, a line that is cut or wraps, a word that changes is seen.  After a
change that is meant: BALLONET_WRITE=1 writes them anew, and `git diff` shows what to look at.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import mkdtemp

import pytest
from rich.cells import cell_len
from tests.integration.host_under_test import running
from tests.integration.moving_guests import MovingGuest
from tests.support.documents import block, masked_lines, printed
from tests.support.terminal import Terminal
from tests.support.wait import PATIENCE_S, wait_until

#: They see what runs on this machine, by name: one after the other.
pytestmark = pytest.mark.xdist_group("machines by name")

BALLONET = str(Path(sys.executable).with_name("ballonet"))
DOCUMENT = Path(__file__).parents[2] / "docs" / "vms.md"
SCREENS = Path(__file__).with_name("screens")
LONG = "shop-a-name-that-is-longer-than-any-column"
NAMES = ("shop-db", "shop-web", LONG)
COMMANDS = {
    "list": "ballonet list 'shop-*'",
    "info": "ballonet info shop-web",
    "top-once": "ballonet top 'shop-*' --once",
    "top": "ballonet top 'shop-*' --interval 500ms",
}
LINES = 40


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A host with two guests, and a device without one; its path is always as long."""
    path = Path(mkdtemp(prefix="shop-", dir="/tmp"))
    try:
        with ExitStack() as stack:
            host = stack.enter_context(running(path / "h"))
            for name in NAMES:
                socket = host.add(name)
                if name != LONG:
                    guest = MovingGuest(path, name, socket, "--memory", "128M")
                    stack.enter_context(guest)
            for name in NAMES[:2]:
                wait_until(partial(has_statistics, name), PATIENCE_S, "no statistics")
            yield path
    finally:
        shutil.rmtree(path)


def has_statistics(name: str) -> bool:
    """Asked once, so that there are some that nobody asks for any more."""
    command = [BALLONET, "stats", name]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def masked(screen: str, folder: Path, *, in_columns: bool) -> str:
    """Any figure as N, in columns at the right end of where it stood; one name for the folder."""
    screen = screen.replace(str(folder), "/tmp/shop-FOLDERXX")
    assert len(str(folder)) == len("/tmp/shop-FOLDERXX")
    screen = re.sub(r"\d\d:\d\d:\d\d", "HH:MM:SS", screen)
    figure = r"(?<![\w-])\d+(?:\.\d+)?(?: (?:B|KiB|MiB|GiB)|[BKMGTE%](?!\w))?"
    return re.sub(figure, lambda found: "N".rjust(len(found[0]) if in_columns else 1), screen)


def shown(folder: Path, name: str, columns: int) -> str:
    with Terminal(folder, columns, LINES) as terminal:
        terminal.run(f"clear; {COMMANDS[name]}; echo it ended with $?")
        if name == "top":
            screen = terminal.wait_for(is_complete, "all figures")
            terminal.press("q")
            terminal.wait_for("it ended with 0")
            return screen
        screen = terminal.wait_for("it ended with 0")
    return screen.partition("it ended with 0")[0]


def is_complete(screen: str) -> bool:
    """Statistics have come, and rates; nothing is on its way, nobody is late."""
    rows = [
        line.split() for line in screen.splitlines() if line.startswith(("shop-db", "shop-web"))
    ]
    return len(rows) == 2 and all("?" not in row and row[-1][0].isdigit() for row in rows)


def table(screen: str) -> list[str]:
    """The head of the table and its rows."""
    lines = screen.splitlines()
    first = next(at for at, line in enumerate(lines) if line.startswith("name"))
    return [lines[first], *(line for line in lines[first:] if line.startswith("shop-"))]


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_screen_looks_as_it_was_looked_at(folder: Path, name: str, columns: int) -> None:
    screen = shown(folder, name, columns)
    if name.startswith("top"):
        above, _, _ = screen.partition("\nname")  # how long it is depends on the computer
        assert above.startswith("ballonet top  ")
        assert "all keep 256M (1 unknown)" in above
        screen = screen.removeprefix(above).lstrip("\n")
    screen = masked(screen, folder, in_columns=name != "info").rstrip() + "\n"
    path = SCREENS / f"{name}-{columns}.txt"
    if os.environ.get("BALLONET_WRITE"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(screen, encoding="utf-8")
    assert screen == path.read_text(encoding="utf-8")
    assert max(cell_len(line) for line in screen.splitlines()) <= columns


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("name", ["list", "top-once", "top"])
def test_figures_end_below_the_ends_of_their_heads(folder: Path, name: str, columns: int) -> None:
    head, *rows = table(shown(folder, name, columns))
    assert len(rows) == len(NAMES)
    words = re.finditer(r"\S+(?: \S+)*", head)
    figures = [found for found in words if found[0] not in ("kind", "state", "age", "reached")]
    for found in figures[1:]:
        for row in rows:
            assert row[found.end() - 1] != " ", (found[0], row)
            assert row[found.end() : found.end() + 1].strip() == "", (found[0], row)


def test_a_name_that_its_column_cuts_stands_whole_below(folder: Path) -> None:
    for name in ("list", "top-once", "top"):
        screen = shown(folder, name, 60)
        assert "…" in screen
        assert LONG in screen.replace("\n", "")


def test_the_document_shows_what_is_printed(folder: Path) -> None:
    command = "ballonet top 'shop-[dw]*' --once"
    document = block(DOCUMENT, f"is `{command}`:")
    lines = printed(command, folder)
    assert masked_lines(lines)[-3:] == masked_lines(document)[-3:]  # the head is of the computer
