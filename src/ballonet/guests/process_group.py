"""A guest's processes: made to end with us, and ended for certain."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from ballonet.errors import GuestError

__all__ = ["die_with_parent", "kill_group", "session_members"]

_PR_SET_PDEATHSIG: Final = 1
_GONE_WITHIN_S: Final = 5.0
_libc: Final = ctypes.CDLL(None)


def die_with_parent() -> None:
    """In a new process, before its program starts: be killed when the starting thread ends."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def kill_group(leader: subprocess.Popen[bytes]) -> None:
    """Kill the leader of a session and everything in it. Raises: GuestError, if some stays."""
    deadline = time.monotonic() + _GONE_WITHIN_S
    with suppress(ProcessLookupError):
        os.killpg(leader.pid, signal.SIGKILL)
    leader.wait()
    while members := session_members(leader.pid):
        for pid in members:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise GuestError(f"processes of the guest cannot be ended: {members}")
        time.sleep(0.01)


def session_members(session: int) -> list[int]:
    """Living processes of a session, zombies left out."""
    members = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                state, _, _, its_session = _after_name((entry / "stat").read_text()).split()[:4]
                if int(its_session) == session and state != "Z":
                    members.append(int(entry.name))
    return members


def _after_name(stat: str) -> str:
    """The fields behind the command name, which may hold spaces and brackets of its own."""
    return stat.rpartition(")")[2]
