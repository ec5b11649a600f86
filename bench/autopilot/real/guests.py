"""Six kernels behind one `ballonet host`, each with a program that plays its schedule; and QEMU's.

Units: bytes, seconds, MiB in reports.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from ballonet.guests.linux import LinuxGuest, LinuxGuestSettings
from ballonet.guests.memload import Load, Wish, build_memload
from bench.autopilot.model.schedule import BURSTS, KINDS, Schedule
from bench.autopilot.real.qemu_guests import QemuAtWork, qemu_settings
from bench.autopilot.real.wall import Wall
from bench.listening import wait_for_listener

__all__ = ["MEMORY_BYTES", "MIB", "NAMES", "Fleet", "fleet"]

MIB: Final = 1 << 20
MEMORY_BYTES: Final = 384 * MIB
NAMES: Final = tuple(f"real{number}" for number in range(6))
_SWAP_BYTES: Final = 512 * MIB
_DISK_BYTES: Final = 256 * MIB
#: A miss of the cache, or of swap, costs what it costs on a slow disk.
_DISK_BYTES_PER_S: Final = 20 * MIB
_READ_MIB: Final = 16 / 1024
_FIRST: Final = """mkdir -p /cg
mount -t cgroup -o blkio none /cg
mkdir /cg/slow
for device in 98:0 98:16; do
    echo "$device {rate}" > /cg/slow/blkio.throttle.read_bps_device
    echo "$device {rate}" > /cg/slow/blkio.throttle.write_bps_device
done
{swap}
echo $$ > /cg/slow/cgroup.procs"""


def schedules_of(seed: int, length_s: float) -> list[Schedule]:
    """One of each kind."""
    dice = random.Random(seed)  # noqa: S311 -- a seed, so that it can be played again
    return [kind(dice, length_s) for kind in KINDS]


@dataclass(frozen=True, slots=True)
class Fleet:
    """Guests that run, and what their programs are to do."""

    directory: Path  #: of their host
    schedules: Sequence[Schedule]
    loads: Sequence[Load]
    guests: Sequence[LinuxGuest]
    qemus: Sequence[QemuAtWork]

    def begin(self) -> None:
        """All their programs at once."""
        with ThreadPoolExecutor(len(self.guests) + len(self.qemus)) as together:
            begun = [together.submit(qemu.begin) for qemu in self.qemus]
            list(together.map(_begin, self.guests, self.loads, self.schedules))
            for one in begun:
                one.result()  # or what went wrong

    @property
    def deaths(self) -> int:
        """Guests that run no more."""
        running = [one.is_running for one in self.guests] + [one.is_running for one in self.qemus]
        return running.count(False)


@contextmanager
def fleet(
    seed: int, length_s: float, wall: Wall, qemus: int, *, deflates_on_oom: bool
) -> Iterator[Fleet]:
    """Six guests and so many of QEMU inside a wall, that have done nothing yet.

    Raises: BallonetError.
    """
    with ExitStack() as stack:
        root = Path(stack.enter_context(TemporaryDirectory(prefix="ballonet-bench-")))
        program = build_memload(root)
        host = root / "host"
        stack.enter_context(_host(host, ("--deflate-on-oom",) if deflates_on_oom else ()))
        schedules = schedules_of(seed, length_s)
        loads = [
            Load(root / name, program, _wishes(schedule), length_s, "/dev/ubdb")
            for name, schedule in zip(NAMES, schedules, strict=True)
        ]
        guests = [
            LinuxGuest(_settings(load.folder, host / f"{load.folder.name}.sock")) for load in loads
        ]
        emulated = []
        for number, wishes in enumerate(_wishes_of_qemus(seed, length_s, qemus), len(NAMES)):
            name = f"real{number}"
            settings = qemu_settings(name, MEMORY_BYTES, program, deflates_on_oom=deflates_on_oom)
            emulated.append(QemuAtWork(settings, name, wishes, length_s))
        everybody: list[LinuxGuest | QemuAtWork] = [*guests, *emulated]
        for one in everybody:
            stack.callback(one.stop)
        with wall.inside(), ThreadPoolExecutor(len(everybody)) as together:
            list(together.map(lambda one: one.start(), everybody))
        yield Fleet(host, schedules, loads, guests, emulated)


def _wishes_of_qemus(seed: int, length_s: float, count: int) -> list[list[Wish]]:
    """Bursts."""
    dice = random.Random(f"qemu {seed}")  # noqa: S311 -- a seed, so that it can be played again
    return [_wishes(BURSTS(dice, length_s)) for _ in range(count)]


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


def _begin(guest: LinuxGuest, load: Load, schedule: Schedule) -> None:
    swap = "mkswap /dev/ubda >/dev/null && swapon /dev/ubda" if schedule.has_swap else ":"
    load.begin(guest, _FIRST.format(rate=_DISK_BYTES_PER_S, swap=swap))


def _wishes(schedule: Schedule) -> list[Wish]:
    return [
        Wish(
            one.at_s,
            one.anon_share * MEMORY_BYTES / MIB,
            one.mib_per_s,
            max(1.0, one.hot_share * _DISK_BYTES / MIB),
            one.read_mib_per_s / _READ_MIB,
        )
        for one in schedule.wishes
    ]
