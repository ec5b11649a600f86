"""Tests that share a guest, or see each other's, run on one worker."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

GROUPED = """
import pytest
pytestmark = pytest.mark.xdist_group("one guest")
@pytest.mark.parametrize("number", range(8))
def test_one(number: int) -> None:
    pass
"""


def test_a_group_of_tests_runs_on_one_worker(tmp_path: Path) -> None:
    (tmp_path / "test_grouped.py").write_text(GROUPED, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-v", "-n", "2", "--dist", "loadgroup"]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", "."],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    passed = [line.split()[0] for line in done.stdout.splitlines() if "PASSED" in line]
    assert len(passed) == 8
    assert len(set(passed)) == 1
