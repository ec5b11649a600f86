"""Which processes have a guest's memory."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ballonet.errors import GuestError
from ballonet.guests.uml_memory import uml_memory


def test_a_process_that_has_ended_is_not_taken_for_another_program() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)  # its parent does not take note
        with (
            pytest.raises(GuestError, match=f"^there is no process {ended.pid}$"),
            uml_memory(ended.pid),
        ):
            pass
