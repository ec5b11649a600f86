"""The real vmw_balloon and hv_balloon under our checks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.turn import in_turn

BALLONET = str(Path(sys.executable).with_name("ballonet"))
#: What is not asked of a real driver, and why.
NOT_ASKED = {
    "vmware": {
        *("VG-B1", "VG-H12"),  # there is no bus for a doorbell
        "VG-M1",  # the module is loaded without its shrinker
        *("VG-X1", "VG-H13"),  # the module stays loaded
        *("VG-H4", "VG-H5", "VG-H10"),  # the kernel would believe it
        "VG-H11",  # the whole machine waits for an answer
    },
    "hyperv": {
        *("YG-V3", "YG-S3"),  # their seconds are not measured
        *("YG-R1", "YG-M15"),  # the ring is in the guest's kernel
        "YG-X1",  # the module stays loaded
        *(f"YG-M{n}" for n in (2, 3, 4, 5, 6, 7, 8, 9, 10, 13)),  # the kernel would believe it
    },
}


#: Asked each time; all of them take minutes, because a real driver has a clock of its own:
#: `make conform-linux` asks them.
FEW = {
    "vmware": ("VG-S1", "VG-I1", "VG-O1", "VG-R1", "VG-F1", "VG-H3"),
    "hyperv": ("YG-V2", "YG-C1", "YG-B1", "YG-F2", "YG-U1", "YG-M1"),
}


def verdicts(kind: str, *only: str) -> dict[str, str]:
    """Of the real driver; all checks, unless some are named."""
    options = [word for one in only for word in ("--only", one)]
    done = subprocess.run(
        [BALLONET, "conform", kind, "--linux", "--json", *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert "of Linux 6" in found["subject"]
    return {row["id"]: row["verdict"] for row in found["results"]}


@pytest.mark.parametrize("kind", in_turn(FEW, 2))
def test_the_real_driver_keeps_to_what_matters_most(kind: str) -> None:
    assert verdicts(kind, *FEW[kind]) == dict.fromkeys(FEW[kind], "pass")


@pytest.mark.skipif("BALLONET_WHOLE" not in os.environ, reason="only in make conform-linux")
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", NOT_ASKED)
def test_the_real_driver_passes_every_check_that_can_be_asked(kind: str) -> None:
    found = verdicts(kind)
    assert {one for one, verdict in found.items() if verdict == "n/a"} == NOT_ASKED[kind]
    assert set(found.values()) == {"pass", "n/a"}
