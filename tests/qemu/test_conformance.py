"""QEMU's device under our checks: it deviates where it is known to, and nowhere else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support.turn import on_day

BALLONET = str(Path(sys.executable).with_name("ballonet"))
KNOWN_DEVIATIONS = {
    "P-10",  # parts of a big page are forgotten at the end of a message
    "P-31",  # page 0 goes when numbers are eight bytes long
    "P-42",  # the id reads as 0 while its round runs
    "L-7",  # the first statistics buffer counts
}


@on_day(0, 2)
def test_the_known_deviations_are_found_by_looking(tmp_path: Path) -> None:
    junit = tmp_path / "junit.xml"
    command = [BALLONET, "conform", "device", "--qemu", "--huge-pages", "--json"]
    done = subprocess.run(
        [*command, "--junit", str(junit)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    assert found["subject"].startswith("QEMU ")
    failed = {row["id"] for row in found["results"] if row["verdict"] == "fail"}
    assert failed == KNOWN_DEVIATIONS
    skipped = {row["id"] for row in found["results"] if row["verdict"] == "n/a"}
    features = {"D-O2b", "RQ-14"}  # that QEMU 7.2 does not offer
    assert skipped == features | {"P-L1", "P-L2"}  # which belong to vhost-user
    assert all(row["evidence"] for row in found["results"])
    assert f'failures="{len(failed)}"' in junit.read_text()
