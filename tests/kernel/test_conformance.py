"""The real driver under our checks, and the real kernel beside ours."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support.turn import on_day

from ballonet.conform.driver.suite import DRIVER_CHECKS

BALLONET = str(Path(sys.executable).with_name("ballonet"))


def test_the_driver_of_linux_passes_every_check() -> None:
    done = subprocess.run(
        [BALLONET, "conform", "driver", "--linux", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(done.stdout)["results"]
    assert len(results) == len(DRIVER_CHECKS)
    assert {row["verdict"] for row in results} == {"pass"}


@on_day(1, 2)
def test_both_kernels_do_the_same() -> None:
    done = subprocess.run(
        [BALLONET, "conform", "agreement", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    differ = [row for row in rows if not row["agrees"]]
    assert not differ
    assert done.returncode == 0, done.stderr
    assert len(rows) > 20
