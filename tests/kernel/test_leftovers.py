"""What remains of the verbs that start a kernel when they are ended."""

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
@pytest.mark.parametrize("verb", [("demo",), ("features",), ("conform", "driver", "--linux")])
def test_a_verb_that_is_ended_leaves_no_process_and_no_file(
    tmp_path: Path, verb: tuple[str, ...], number: int
) -> None:
    with family([BALLONET, *verb], tmp_path) as running:
        wait_until(lambda: running.runs("linux"), 60, "no kernel was started")
        running.process.send_signal(number)
        running.assert_gone()
    assert running.process.returncode != 0
