"""A guest's processes: made to end with us, and ended for certain."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from ballonet.errors import GuestError

__all__ = ["dismiss", "kill_group", "session_members", "watch_over"]

_WATCHER: Final = 'read -r _; kill -KILL -- "-$0" 2>/dev/null; rm -rf -- "$1"'
_GONE_WITHIN_S: Final = 5.0


def watch_over(leader: subprocess.Popen[bytes], directory: Path) -> subprocess.Popen[bytes]:
    """Have a session killed and its directory removed when this process ends, even by SIGKILL.

    The watcher sleeps on a pipe whose other end only we hold: end it with `dismiss`.
    """
    return subprocess.Popen(
        ["sh", "-c", _WATCHER, str(leader.pid), str(directory)],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )


def dismiss(watcher: subprocess.Popen[bytes]) -> None:
    """End a watcher before the processes it watches over are ended otherwise."""
    watcher.kill()
    watcher.communicate()


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
