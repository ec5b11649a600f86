"""A guest's directory, and what was started with it."""

from __future__ import annotations

import subprocess
import sys

from tests.support.wait import PATIENCE_S

from ballonet.guests.processes import PrivateDirectory

SLEEPER = "import signal; print('here', flush=True); signal.pause()"


def test_what_was_started_with_a_directory_ends_with_it_even_if_nobody_noted_it_down() -> None:
    with PrivateDirectory("ballonet-test-", mark="mark={}") as path:
        command = [sys.executable, "-c", SLEEPER, f"mark={path}"]
        forgotten = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert forgotten.stdout is not None
        assert forgotten.stdout.readline() == b"here\n"
    assert forgotten.wait(PATIENCE_S) < 0
    assert not path.exists()
    forgotten.stdout.close()
