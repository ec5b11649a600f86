"""Six kernels behind one `ballonet host`, each with a program that plays its schedule.

Units: bytes, seconds, MiB in reports.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from ballonet.errors import GuestError
from ballonet.guests.linux import LinuxGuest, LinuxGuestSettings
from bench.autopilot.model.schedule import KINDS, Schedule
from bench.autopilot.real.wall import Wall
from bench.listening import wait_for_listener

__all__ = ["MEMORY_BYTES", "NAMES", "Fleet", "build_memload", "fleet", "schedules_of"]

MIB: Final = 1 << 20
MEMORY_BYTES: Final = 384 * MIB
NAMES: Final = tuple(f"real{number}" for number in range(6))
_SOURCE: Final = Path(__file__).with_name("memload.c")
_SWAP_BYTES: Final = 512 * MIB
_DISK_BYTES: Final = 256 * MIB
#: A miss of the cache, or of swap, costs what it costs on a slow disk.
_DISK_BYTES_PER_S: Final = 20 * MIB
_READ_MIB: Final = 16 / 1024
_BEGIN: Final = """set -e
mkdir -p /mnt /cg
mount -t hostfs none /mnt -o {folder}
mount -t cgroup -o blkio none /cg
mkdir /cg/slow
for device in 98:0 98:16; do
    echo "$device {rate}" > /cg/slow/blkio.throttle.read_bps_device
    echo "$device {rate}" > /cg/slow/blkio.throttle.write_bps_device
done
{swap}
echo $$ > /cg/slow/cgroup.procs
setsid /mnt/memload /mnt/schedule /mnt/report /dev/ubdb </dev/null >/mnt/said 2>&1 &"""


def build_memload(folder: Path) -> Path:
    """The program, for guests that have no libraries. Raises: GuestError."""
    program = folder / "memload"
    command = ["gcc", "-O2", "-static", "-o", str(program), str(_SOURCE)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise GuestError(f"memload cannot be built, which needs gcc: {error}") from error
    return program


def schedules_of(seed: int, length_s: float) -> list[Schedule]:
    """One of each kind."""
    dice = random.Random(seed)  # noqa: S311 -- a seed, so that it can be played again
    return [kind(dice, length_s) for kind in KINDS]


@dataclass(frozen=True, slots=True)
class Fleet:
    """Guests that run, and where what they report is read."""

    directory: Path  #: of their host
    folders: Sequence[Path]
    guests: Sequence[LinuxGuest]

    def begin(self) -> None:
        """All their programs at once."""
        with ThreadPoolExecutor(len(self.guests)) as together:
            list(together.map(_begin, self.guests, self.folders))

    @property
    def alive(self) -> int:
        """Guests that still run."""
        return sum(guest.is_running for guest in self.guests)

    def reports(self) -> list[list[Mapping[str, float]]]:
        """Of each guest, a report a second."""
        return [_read(folder / "report") for folder in self.folders]


@contextmanager
def fleet(seed: int, length_s: float, wall: Wall, *device_options: str) -> Iterator[Fleet]:
    """Six guests inside a wall, that have done nothing yet. Raises: GuestError."""
    with ExitStack() as stack:
        root = Path(stack.enter_context(TemporaryDirectory(prefix="ballonet-bench-")))
        program = build_memload(root)
        host = root / "host"
        stack.enter_context(_host(host, device_options))
        folders, settings = [], []
        for name, schedule in zip(NAMES, schedules_of(seed, length_s), strict=True):
            folder = root / name
            folder.mkdir()
            shutil.copy(program, folder / "memload")
            (folder / "schedule").write_text(_lines(schedule, length_s))
            (folder / "has-swap").write_text("1" * schedule.has_swap)
            folders.append(folder)
            settings.append(_settings(folder, host / f"{name}.sock"))
        with wall.inside(), ThreadPoolExecutor(len(NAMES)) as together:
            guests = [LinuxGuest(one) for one in settings]
            for guest in guests:
                stack.callback(guest.stop)
            list(together.map(lambda guest: guest.start(), guests))
        yield Fleet(host, folders, guests)


@contextmanager
def _host(directory: Path, options: Sequence[str]) -> Iterator[None]:
    directory.mkdir(mode=0o700)
    fields = {"version": 1, "guests": dict.fromkeys(NAMES)}
    (directory / "host.json").write_text(json.dumps(fields))
    command = [sys.executable, "-m", "ballonet", "host", "--directory", str(directory), *options]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for_listener(directory / "host.qmp")
            yield
        finally:
            process.terminate()


def _settings(folder: Path, socket: Path) -> LinuxGuestSettings:
    for name, size in (("swap", _SWAP_BYTES), ("disk", _DISK_BYTES)):
        with (folder / name).open("wb") as file:
            file.truncate(size)
    line = (f"ubd0={folder / 'swap'}", f"ubd1r={folder / 'disk'}")
    return LinuxGuestSettings(MEMORY_BYTES, socket_path=socket, command_line=line)


def _begin(guest: LinuxGuest, folder: Path) -> None:
    has_swap = bool((folder / "has-swap").read_text())
    swap = "mkswap /dev/ubda >/dev/null && swapon /dev/ubda" if has_swap else ":"
    guest.check(_BEGIN.format(folder=folder, rate=_DISK_BYTES_PER_S, swap=swap))


def _lines(schedule: Schedule, length_s: float) -> str:
    lines = [
        f"{one.at_s:.2f} {one.anon_share * MEMORY_BYTES / MIB:.1f} {one.mib_per_s:.1f}"
        f" {max(1.0, one.hot_share * _DISK_BYTES / MIB):.1f} {one.read_mib_per_s / _READ_MIB:.1f}"
        for one in schedule.wishes
    ]
    return "\n".join([*lines, f"{length_s:.2f} -1 0 0 0", ""])


def _read(path: Path) -> list[Mapping[str, float]]:
    if not path.exists():
        return []
    found: list[Mapping[str, float]] = []
    for line in path.read_text().splitlines():
        pairs = (word.partition("=") for word in line.split())
        found.append({name: float(value) for name, _, value in pairs if value})
    return found
