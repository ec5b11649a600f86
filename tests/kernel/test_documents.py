"""What the documents show is what is printed, figures aside.

Every command is run as it stands in the document.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from shlex import quote

import pytest
from tests.support.documents import ENVIRONMENT, block, masked, masked_lines, printed
from tests.support.wait import wait_until

README, PATHS, FEATURES = Path("README.md"), Path("docs/paths.md"), Path("docs/features.md")
PROMPT = "(QEMU)"
HOST = "host → device"


def test_readme_shows_what_the_demonstration_prints(tmp_path: Path) -> None:
    shown = block(README, "(that is, `ballonet demo`) printed:")
    assert masked(printed("ballonet demo", tmp_path)) == masked(shown)


def test_readme_shows_what_a_migration_prints(tmp_path: Path) -> None:
    """On a busy machine there may be more passes, each as the first."""
    shown = masked_lines(block(README, "ballonet demo migrate --steps"))
    lines = masked_lines(printed("ballonet demo migrate", tmp_path))
    assert set(lines) == set(shown)


def test_the_features_document_shows_what_the_features_print(tmp_path: Path) -> None:
    shown = block(FEATURES, "`ballonet features` boots")
    columns = len(shown.splitlines()[1])
    assert masked(printed("ballonet features", tmp_path, columns)) == masked(shown)


def test_the_features_document_shows_what_the_hints_print(tmp_path: Path) -> None:
    shown = block(FEATURES, "`ballonet hints` runs one round")
    assert masked(printed("ballonet hints", tmp_path)) == masked(shown)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder in which the commands of docs/paths.md were run; device and guest still live."""
    folder = tmp_path_factory.mktemp("paths")
    text = PATHS.read_text(encoding="utf-8").partition("The record was made with")[2]
    device, guest, *others = [
        line.strip() for line in text.split("\n\n")[1].splitlines() if line.startswith("    ")
    ]
    with ExitStack() as stack:
        stack.enter_context(_running(device, folder))
        wait_until(lambda: "listening at vu" in (folder / "said").read_text(), 60, "no device")
        stack.enter_context(_running(guest, folder))
        wait_until(lambda: "reading commands" in (folder / "said").read_text(), 120, "no guest")
        for command in others:
            printed(command, folder)
        polled = "statistics received"
        wait_until(lambda: (folder / "trace").read_text().count(polled) >= 4, 120, "no polls")
        yield folder


@contextmanager
def _running(command: str, folder: Path) -> Iterator[None]:
    with (folder / "said").open("ab") as said:
        process = subprocess.Popen(
            ["sh", "-c", f"exec {command}"],
            cwd=folder,
            env=ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=said,
            stderr=said,
        )
    try:
        yield
    finally:
        process.terminate()
        process.communicate()


def test_the_paths_document_shows_the_way_of_a_target(recorded: Path) -> None:
    every = masked_lines(printed("ballonet trace --all trace", recorded))
    for line in masked_lines(block(PATHS, "## `balloon N`")):
        assert line in every
    folded = masked_lines(printed("ballonet trace trace", recorded))
    start = next(i for i, line in enumerate(folded) if "set target" in line)
    rest = folded[start + 1 :]
    way = rest[: next(i for i, line in enumerate(rest) if HOST in line)]
    # While `set` waits it asks for statistics, too; how often is a matter of the machine.
    way = [folded[start], *(line for line in way if "stat" not in line)]
    assert sorted(way) == sorted(masked_lines(block(PATHS, "## `balloon N`", 2)))


def test_the_paths_document_shows_the_way_of_statistics(recorded: Path) -> None:
    every = masked_lines(printed("ballonet trace --all trace", recorded))
    shown = masked_lines(block(PATHS, "## Periodic statistics"))
    starts = [i for i, line in enumerate(every) if "set poll interval" in line]
    assert shown in [every[start : start + len(shown)] for start in starts]


@pytest.mark.parametrize("shell", ["qmp-shell /run/vm1/qmp", "qmp-shell --hmp /run/vm1/qmp"])
def test_readme_shows_what_qemus_own_client_gets(recorded: Path, shell: str) -> None:
    shown = block(README, f"`{shell}`").splitlines()
    typed = [line.partition(PROMPT)[2].strip() for line in shown if PROMPT in line]
    wanted = [line.partition(PROMPT)[0] for line in shown]
    script = "".join(f"{one}\n" for one in typed)
    command = f"printf %s {quote(script)} | {shell.replace('/run/vm1/qmp', 'qmp')}"
    said = printed(command, recorded).replace(PROMPT, "")
    assert masked_lines(said) == masked_lines("\n".join(wanted))
