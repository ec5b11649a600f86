"""A guest's processes and files: found, ended for certain, watched over so that none outlives us.

User-Mode Linux is several processes, and the one that watches a terminal's size is not even in the
others' session. All of them show the same command line, which names the guest's own directory; so
does that of every other program that is started with a directory of its own.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final

from ballonet.errors import GuestError

__all__ = ["GUEST_MARK", "QEMU_MARK", "PrivateDirectory", "end_guest", "guest_processes", "mark_of"]

GUEST_MARK: Final = "uml_dir={}"  #: of a guest in User-Mode Linux
QEMU_MARK: Final = "guest={}"  #: of a QEMU, after -name
_GONE_WITHIN_S: Final = 5.0
#: Sleeps until its input ends, then kills twice: a process may have started another meanwhile.
#: Without a mark there is nobody to kill.
_WATCHER: Final = """
read -r _
[ -z "$0" ] || for _ in 1 2; do
    for file in $(grep -lsF -- "$0" /proc/[0-9]*/cmdline); do
        pid=${file#/proc/}
        [ "${pid%/cmdline}" = $$ ] || kill -s KILL "${pid%/cmdline}"
    done
done 2>/dev/null
rm -rf -- "$1"
"""


class PrivateDirectory:
    """A directory that goes when the block ends, and when this process does, even by SIGKILL.

    `mark` is an argument in the command line of programs that are to be killed with it, the
    directory in place of {}.  A watcher sees to it, which sleeps on a pipe whose other end only we
    hold.  Raises: GuestError.
    """

    def __init__(self, prefix: str, *, home: Path | None = None, mark: str = "") -> None:
        try:
            self.path: Final = Path(tempfile.mkdtemp(prefix=prefix, dir=home))
        except OSError as error:
            raise GuestError(f"no directory can be made: {error}") from error
        self._watcher: subprocess.Popen[bytes] | None = subprocess.Popen(
            ["sh", "-c", _WATCHER, mark.format(self.path), str(self.path)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def __enter__(self) -> Path:
        return self.path

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove it, and end what was started with it. Safe to call again.

        Whoever started something may not know of it: a signal may have come between its start and
        the moment it was noted down.  So the watcher looks, every time.
        """
        shutil.rmtree(self.path, ignore_errors=True)
        if self._watcher is not None:
            self._watcher.communicate()  # its input ends, whatever else happens
            self._watcher = None


def mark_of(directory: Path) -> str:
    """The kernel argument that is in the command line of every process of one guest."""
    return GUEST_MARK.format(directory)


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
