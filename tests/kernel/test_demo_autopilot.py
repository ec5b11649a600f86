"""`ballonet demo autopilot` on real kernels."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.turn import on_day

#: It looks at what runs on this machine, by name: one after the other.
pytestmark = [pytest.mark.xdist_group("machines by name"), pytest.mark.timeout(900)]

BALLONET = str(Path(sys.executable).with_name("ballonet"))
MIB = 1 << 20


@on_day(0, 2)
def test_with_the_autopilot_programs_get_more_of_the_same_memory() -> None:
    done = subprocess.run(
        [BALLONET, "demo", "autopilot", "--json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    equal, ours = figures["equal parts"], figures["autopilot"]
    assert ours["bursts"] == equal["bursts"] == 2
    assert ours["programs_killed"] < equal["programs_killed"]
    assert ours["deficit_s"] < equal["deficit_s"]
    assert max(ours["most_bytes"], equal["most_bytes"]) <= 6 * 128 * MIB
