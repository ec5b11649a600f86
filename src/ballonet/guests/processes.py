"""A guest's processes: found, ended for certain, and watched over so that none outlives us.

User-Mode Linux is several processes, and the one that watches a terminal's size is not even in the
others' session. All of them show the same command line, which names the guest's own directory.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from ballonet.errors import GuestError

__all__ = ["dismiss", "end_guest", "guest_processes", "mark_of", "watch_over"]

_GONE_WITHIN_S: Final = 5.0
#: Sleeps until its input ends, then kills twice: a process may have started another meanwhile.
_WATCHER: Final = """
read -r _
for _ in 1 2; do
    for file in $(grep -lsF -- "$0" /proc/[0-9]*/cmdline); do
        pid=${file#/proc/}
        [ "${pid%/cmdline}" = $$ ] || kill -s KILL "${pid%/cmdline}"
    done
done 2>/dev/null
rm -rf -- "$1"
"""


def mark_of(directory: Path) -> str:
    """The kernel argument that is in the command line of every process of one guest."""
    return f"uml_dir={directory}"


def guest_processes(directory: Path) -> list[int]:
    """Living processes of the guest with this directory; zombies have no command line.

    The watcher's command line names the mark too, in the place of a shell script's name.
    """
    mark = os.fsencode(mark_of(directory))
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                program, *arguments = (entry / "cmdline").read_bytes().split(b"\0")
                if program != b"sh" and mark in arguments:
                    found.append(int(entry.name))
    return found


def end_guest(kernel: subprocess.Popen[bytes], directory: Path) -> None:
    """Kill every process of a guest. Raises: GuestError, if one stays."""
    deadline = time.monotonic() + _GONE_WITHIN_S
    kernel.kill()
    kernel.wait()
    while members := guest_processes(directory):
        for pid in members:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise GuestError(f"processes of the guest cannot be ended: {members}")
        time.sleep(0.01)


def watch_over(directory: Path) -> subprocess.Popen[bytes]:
    """Have a guest killed and its directory removed when this process ends, even by SIGKILL.

    The watcher sleeps on a pipe whose other end only we hold: end it with `dismiss`.
    """
    return subprocess.Popen(
        ["sh", "-c", _WATCHER, mark_of(directory), str(directory)],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )


def dismiss(watcher: subprocess.Popen[bytes]) -> None:
    """End a watcher; whoever calls this ends the guest."""
    watcher.kill()
    watcher.communicate()
