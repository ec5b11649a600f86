"""The processes of this machine: their command lines, and where their paths lead from here.

Best effort: what this user may not see is not there.
Source: proc_pid_cmdline(5), proc_pid_root(5), proc_pid_ns(5).
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Process", "processes"]


@dataclass(frozen=True, slots=True)
class Process:
    """A process that runs a program."""

    pid: int
    arguments: tuple[str, ...]  #: the first is the program

    @property
    def program(self) -> str:
        """What the program is called."""
        return self.arguments[0].rpartition("/")[2]

    def outside(self, path: str) -> Path:
        """The same file as this process means by a path, for us.

        A jail's root is another one, a container's mounts are others.
        """
        folder, root = Path(f"/proc/{self.pid}/cwd"), Path(f"/proc/{self.pid}/root")
        with suppress(OSError):
            if not path.startswith("/"):
                path = str(folder.readlink() / path)
            if _mounts(self.pid) != _mounts(os.getpid()):
                return Path(f"{root}{path}")
            if str(root.readlink()) != "/":
                return Path(f"{root.readlink()}{path}")
        return Path(path)

    def environment(self, name: str) -> str | None:
        """A variable of its environment, as it was when it began; None: not known."""
        with suppress(OSError):
            prefix = f"{name}=".encode()
            for entry in Path(f"/proc/{self.pid}/environ").read_bytes().split(b"\0"):
                if entry.startswith(prefix):
                    return os.fsdecode(entry[len(prefix) :])
        return None

    def owner(self) -> int | None:
        """The user it runs as."""
        with suppress(OSError):
            return Path(f"/proc/{self.pid}").stat().st_uid
        return None


def processes() -> list[Process]:
    """All that run now, but this one, by their numbers."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            raw = (folder / "cmdline").read_bytes()
            arguments = tuple(os.fsdecode(one) for one in raw.removesuffix(b"\0").split(b"\0"))
            if arguments[0] and int(folder.name) != os.getpid():
                found.append(Process(int(folder.name), arguments))
    return sorted(found, key=lambda one: one.pid)


def _mounts(pid: int) -> str:
    """Names the mounts that a process sees. Raises: OSError."""
    return os.readlink(f"/proc/{pid}/ns/mnt")  # noqa: PTH115 - it is no path
