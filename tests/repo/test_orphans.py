"""What remains of tests that are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.support.wait import PATIENCE_S, wait_until

TESTS = """
import subprocess
from tests.support.orphans import end_children_with_us
end_children_with_us()
helper = subprocess.Popen(["sleep", "1000"], start_new_session=True)
print(helper.pid, flush=True)
helper.wait()
"""


def lives(pid: int) -> bool:
    """The process runs; a zombie does not."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False


def test_a_helper_ends_when_the_tests_are_killed() -> None:
    command = [sys.executable, "-c", TESTS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as tests:
        assert tests.stdout is not None
        helper = int(tests.stdout.readline())
        try:
            wait_until(lambda: lives(helper), PATIENCE_S, "the helper does not start")
            tests.kill()
            wait_until(lambda: not lives(helper), PATIENCE_S, "the helper goes on")
        finally:
            tests.kill()
            if lives(helper):
                os.kill(helper, signal.SIGKILL)
