"""Programs of a guest that want memory by a schedule, and what they got.

The program is built on this machine when it is wanted, without libraries, so that any guest can run
it; it is in programs/memload.c, which says what it reads and writes.
Units: seconds, MiB in schedules and reports.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from importlib.resources import as_file, files
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

from ballonet.errors import GuestError
from ballonet.guests.linux import LinuxGuest

__all__ = [
    "Load",
    "Report",
    "Wish",
    "build_memload",
    "deficit_s",
    "parse_report",
    "reliefs",
    "schedule_text",
]

_BEGIN: Final = """set -e
mkdir -p /mnt
mount -t hostfs none /mnt -o {folder}
{first}
setsid /mnt/memload /mnt/schedule /mnt/report {disk} </dev/null >/mnt/said 2>&1 &"""
_AGAIN: Final = "setsid /mnt/memload /mnt/schedule /mnt/report {disk} </dev/null >/mnt/said 2>&1 &"
#: So much of what is wanted is all of it: reports are of whole MiB and seconds.
_ALL: Final = 0.97

#: What is so after each second, by the names of the program's report.
Report = Sequence[Mapping[str, float]]


class Wish(NamedTuple):
    """What is wanted from a moment on."""

    at_s: float
    mib: float
    mib_per_s: float  #: taken no faster
    hot_mib: float = 1.0  #: of the disk, read again and again
    reads_per_s: float = 0.0  #: of 16 KiB


def build_memload(folder: Path) -> Path:
    """The program, in a folder. Raises: GuestError."""
    program = folder / "memload"
    with as_file(files("ballonet.guests") / "programs" / "memload.c") as source:
        command = ["gcc", "-O2", "-static", "-o", str(program), str(source)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except FileNotFoundError as error:
            raise GuestError("gcc is not there; run: apt-get install gcc libc6-dev") from error
        except subprocess.CalledProcessError as error:
            raise GuestError(f"memload cannot be built: {error.stderr.strip()[-200:]}") from error
    return program


def schedule_text(wishes: Sequence[Wish], length_s: float) -> str:
    """As the program reads it."""
    lines = [" ".join(f"{part:.2f}" for part in wish) for wish in wishes]
    return "\n".join([*lines, f"{length_s:.2f} -1 0 1 0", ""])


def parse_report(text: str) -> Report:
    """What the program has written, a line a second."""
    pairs = ([word.partition("=") for word in line.split()] for line in text.splitlines())
    return [{name: float(value) for name, _, value in one if value} for one in pairs]


class Load:
    """What one guest's programs are to do, and have done; its files are in a folder of its own."""

    def __init__(
        self, folder: Path, program: Path, wishes: Sequence[Wish], length_s: float, disk: str = ""
    ) -> None:
        """`disk`: the device of the guest that is read, if any."""
        self.folder, self.wishes, self.length_s = folder, tuple(wishes), length_s
        self._disk, self._has_begun = disk, False
        folder.mkdir()
        shutil.copy(program, folder / "memload")
        (folder / "schedule").write_text(schedule_text(self.wishes, length_s))

    def begin(self, guest: LinuxGuest, first: str = ":") -> None:
        """Have it done from now on; what was done before is forgotten. Raises: GuestError.

        `first`: what the guest's shell is to do before, the first time.
        """
        (self.folder / "report").unlink(missing_ok=True)
        script = _AGAIN if self._has_begun else _BEGIN
        guest.check(script.format(folder=self.folder, first=first, disk=self._disk))
        self._has_begun = True

    def report(self) -> Report:
        """A line a second, the newest last."""
        try:
            return parse_report((self.folder / "report").read_text())
        except FileNotFoundError:
            return []


def deficit_s(report: Report) -> float:
    """The missing part of what is wanted, times the time."""
    return sum(
        max(0.0, one["wants"] - one["has"]) / one["wants"] for one in report if one.get("wants")
    )


def reliefs(wishes: Sequence[Wish], report: Report, least_mib: float) -> list[float | None]:
    """Of each burst beyond a size, how much later all of it was there than it could have been.

    None: it was never there.
    """
    found = []
    for wish, following in pairwise(wishes):
        if wish.mib > following.mib and wish.mib >= least_mib:
            could_s = wish.at_s + wish.mib / wish.mib_per_s + 1.0  # reports are a second apart
            there_s = [
                one["at"]
                for one in report
                if wish.at_s < one["at"] <= following.at_s and one["has"] >= wish.mib * _ALL
            ]
            found.append(max(0.0, there_s[0] - could_s) if there_s else None)
    return found
