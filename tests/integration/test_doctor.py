"""`ballonet doctor` on this machine, and on ones that lack something."""

from __future__ import annotations

import json
import os
import resource
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.agent_process import BALLONET
from tests.support.wait import PATIENCE_S

#: It counts the machines that run here.
pytestmark = pytest.mark.xdist_group("machines by name")


def doctor(
    *options: str, before: Callable[[], None] | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BALLONET, "doctor", *options],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
        preexec_fn=before,
    )


def rows(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    return {row["check"]: row for row in map(json.loads, done.stdout.splitlines())}


def test_a_machine_on_which_the_tests_run_passes_the_self_test() -> None:
    done = doctor("--json")
    assert done.returncode == 0, done.stderr
    found = rows(done)
    assert len(found) > 8
    assert found["self-test"]["grade"] == found["real kernel"]["grade"] == "fine"
    assert "16.0 MiB" in found["self-test"]["words"]
    assert all(row["words"] and row["needed_by"] for row in found.values())


def test_what_is_missing_is_said_with_the_way_out_and_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "sh").symlink_to("/bin/sh")
    done = doctor("--json", PATH=str(tmp_path))
    found = rows(done)
    assert done.returncode == 0, done.stderr
    for name, way_out in (
        ("real kernel", "apt-get install user-mode-linux"),
        ("QEMU", "system-packages qemu"),
        ("compiler", "apt-get install gcc"),
    ):
        assert found[name]["grade"] == "lacking"
        assert way_out in found[name]["words"]
    told = doctor(PATH=str(tmp_path)).stdout
    assert "needed by: demo, features, lab" in told


def test_a_machine_on_which_no_guest_can_be_served_fails() -> None:
    """Its files may have a MiB."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    done = doctor("--json", before=limit)
    assert done.returncode == 1
    assert rows(done)["self-test"]["grade"] == "broken"
    assert done.stderr.count("\n") == 1
