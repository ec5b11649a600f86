"""Faults that a process has had, as the host's kernel counts them.

Source: proc_pid_stat(5), minflt; getrusage(2): a page that only had to be found or made is a minor
fault, one that had to be read from a disk a major one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ballonet.errors import GuestError

__all__ = ["minor_faults", "parse_minor_faults"]

#: Behind the program's name in brackets, which may contain anything: state is the first.
_MINOR: Final = 7


def minor_faults(pid: int) -> int:
    """Since it was started, by all its threads. Raises: GuestError."""
    try:
        return parse_minor_faults(Path(f"/proc/{pid}/stat").read_text(errors="replace"))
    except OSError as error:
        raise GuestError(f"process {pid} cannot be looked into: {error.strerror}") from error


def parse_minor_faults(stat: str) -> int:
    """Out of /proc/pid/stat."""
    return int(stat.rpartition(")")[2].split()[_MINOR])
