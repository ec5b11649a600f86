"""What docs/siblings.md shows of the real drivers is what is printed, figures aside."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from tests.support.documents import ENVIRONMENT, block, masked, masked_lines, printed
from tests.support.turn import in_turn, on_day
from tests.support.wait import wait_until

pytestmark = pytest.mark.xdist_group("siblings document")

#: Where the kernel for QEMU is looked for.
ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "siblings.md"
OF_VMWARE, OF_HYPERV = "### A conversation", "### Another conversation"


@pytest.mark.parametrize("kind", in_turn(["vmware", "hyperv"], 2))
def test_it_shows_what_the_features_of_a_balloon_print(kind: str) -> None:
    command = f"ballonet features --balloon {kind}"
    shown = block(DOCUMENT, f"`{command}` has")
    columns = len(shown.splitlines()[1])
    assert masked(printed(command, ROOT, columns)) == masked(shown)


@on_day(1, 2)
def test_it_shows_every_kind_of_call_of_vmware_s_conversation(tmp_path: Path) -> None:
    _record(OF_VMWARE, tmp_path)
    lines = masked_lines(printed("ballonet trace --queue socket trace", tmp_path))
    assert set(lines) == set(masked_lines(block(DOCUMENT, OF_VMWARE)))


@on_day(0, 2)
def test_it_shows_every_kind_of_message_of_hyper_v_s_conversation(tmp_path: Path) -> None:
    _record(OF_HYPERV, tmp_path)
    command = "ballonet trace trace | grep -v -e StatusReport -e 'status reported'"
    assert f"`{command}`" in DOCUMENT.read_text(encoding="utf-8")
    assert _names(printed(command, tmp_path)) == _names(block(DOCUMENT, OF_HYPERV))


def _record(conversation: str, folder: Path) -> None:
    """Do what is said under a heading: start a guest, and ask for sizes."""
    text = DOCUMENT.read_text(encoding="utf-8").partition(conversation)[2].split("\n\n")[2]
    guest, *others = [line.strip() for line in text.splitlines()]
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen(
            ["sh", "-c", f"exec {_placed(guest, folder)}"],
            cwd=ROOT,
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
        )
    try:
        wait_until((folder / "qmp").exists, 120, "no monitor")
        wait_until(lambda: _has_driver(folder), 120, "no driver")
        for command in others:
            printed(_placed(command, folder), ROOT)
    finally:
        process.terminate()
        process.communicate()
    assert process.returncode == 0, (folder / "said").read_text()


def _names(trace: str) -> set[str]:
    """Of everything that is told, behind times and speaker."""
    return {re.split("[:,]", line[41:])[0] for line in trace.splitlines() if line.strip()}


def _placed(command: str, folder: Path) -> str:
    """The same, with its files in a folder."""
    command = command.replace("unix:qmp", f"unix:{folder / 'qmp'}")
    return command.replace("set qmp", f"set {folder / 'qmp'}").replace(
        "--trace trace", f"--trace {folder / 'trace'}"
    )


def _has_driver(folder: Path) -> bool:
    done = subprocess.run(
        ["ballonet", "info", folder / "qmp", "--json"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode == 0 and json.loads(done.stdout)["has_driver"] is True
