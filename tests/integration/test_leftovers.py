"""What remains of the verbs that need nothing installed when they are ended."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest
from tests.support.leftovers import family
from tests.support.wait import wait_until

BALLONET = Path(sys.executable).with_name("ballonet")
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL]


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize(
    "verb",
    [
        ("demo", "--guest", "embedded", "--hold", "--memory", "256M"),
        ("conform", "device"),
        ("conform", "driver", "--embedded"),
    ],
)
def test_a_verb_that_is_ended_leaves_no_process_and_no_file(
    tmp_path: Path, verb: tuple[str, ...], number: int
) -> None:
    with family([BALLONET, *verb], tmp_path) as running:
        wait_until(lambda: list(tmp_path.rglob("device")), 60, "nothing was started")
        running.process.send_signal(number)
        running.assert_gone()
    assert running.process.returncode != 0
