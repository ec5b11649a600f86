"""How statistics leave the host's side: QEMU's monitor, ours, and `ballonet stats` on both."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from ballonet.device.balloon import BalloonSettings
from ballonet.errors import GuestError
from ballonet.guests.ballooned import BalloonedGuest
from ballonet.guests.linux import LinuxGuestSettings
from ballonet.guests.processes import PrivateDirectory
from ballonet.guests.qemu_balloon import QemuBalloonGuest
from ballonet.lab.experiment import Experiment, Kernel
from ballonet.lab.notebook import Notebook
from ballonet.monitor.serving import monitoring
from ballonet.runtime.monitor_socket import MonitorSocket
from ballonet.units import format_bytes
from ballonet.vhost_user.listener import listening_socket
from ballonet.virtio.stats import STATS, UNSET, StatUnit

__all__ = ["EXPERIMENT"]

_MEMORY_BYTES: Final = 256 << 20
_BALLOON: Final = "/machine/peripheral/balloon0"
_PROGRAM_S: Final = 300.0
_TOTAL: Final = "stat-total-memory"
#: Statistics that only grow, and what the guest's own /proc/vmstat calls them.
_COUNTERS: Final = {"stat-minor-faults": "pgfault", "stat-major-faults": "pgmajfault"}


class _Guest(Protocol):
    """What is asked of the guest itself."""

    def meminfo(self) -> dict[str, int]: ...

    def vmstat(self) -> dict[str, int]: ...


class _Export(NamedTuple):
    """What one host says of its guest, and what the guest says of itself before and after."""

    qmp: Mapping[str, int]  #: qom-get guest-stats
    update_s: int
    hmp: str
    program: Mapping[str, int | None]  #: ballonet stats --json
    total_bytes: int
    before: Mapping[str, int]
    after: Mapping[str, int]


def _on_qemu(notebook: Notebook) -> None:
    theirs = _of_qemu(notebook)
    ours = _of_ours(notebook)
    rows = [
        (row.qemu_key, *(_value(row.unit, one.qmp.get(row.qemu_key)) for one in (theirs, ours)))
        for row in STATS
    ]
    notebook.table("qom-get guest-stats", ("key", "QEMU's guest", "our device's guest"), rows)
    notebook.block("HMP of QEMU: qom-get guest-stats", theirs.hmp)
    notebook.block("HMP of our monitor: info stats", ours.hmp)
    for name, export in (("QEMU", theirs), ("our device", ours)):
        _claim(notebook, name, export)
    notebook.claim(
        "every key of QEMU's is one of ours, in the same shape",
        holds=set(theirs.qmp) <= set(ours.qmp),
    )
    notebook.claim(
        "what a kernel does not send reads as the largest number of 64 bits",
        holds=UNSET in ours.qmp.values()
        and all(0 <= value <= UNSET for value in ours.qmp.values()),
    )
    sent = [sum(value != UNSET for value in one.qmp.values()) for one in (theirs, ours)]
    notebook.conclude(
        f"QEMU shows {len(theirs.qmp)} keys, of which its guest sends {sent[0]}; our device shows"
        f" {len(ours.qmp)}, of which its guest sends {sent[1]}; both say the MemTotal and the page"
        " faults that the guests themselves count."
    )


def _of_qemu(notebook: Notebook) -> _Export:
    second = ("-qmp", "unix:{}/second,server=on,wait=off")
    with QemuBalloonGuest(_MEMORY_BYTES, arguments=second) as guest:
        notebook.runs_on(guest.release, "QEMU, and User-Mode Linux with our device")
        notebook.step("QEMU's guest is asked for statistics, by `ballonet stats` and by QMP")
        line = f"qom-get {_BALLOON} guest-stats"
        return _ask(guest.monitor, guest.linux.directory / "second", guest.shell, line)


def _of_ours(notebook: Notebook) -> _Export:
    with (
        PrivateDirectory("ballonet-lab-") as directory,
        BalloonedGuest(LinuxGuestSettings(_MEMORY_BYTES), BalloonSettings()) as machine,
        listening_socket(directory / "qmp") as first,
        listening_socket(directory / "second") as second,
        monitoring(machine.device, [first, second]),
    ):
        monitor = MonitorSocket(directory / "qmp")
        try:
            notebook.step("our device's guest is asked, in the same ways")
            return _ask(monitor, directory / "second", machine.guest, "info stats")
        finally:
            monitor.close()


def _ask(monitor: MonitorSocket, second: Path, guest: _Guest, line: str) -> _Export:
    """Ask the program first: it has fresh values sent."""
    before = guest.vmstat()
    program = _ask_program(second)
    said = monitor.execute("qom-get", path=_BALLOON, property="guest-stats")
    hmp = monitor.execute("human-monitor-command", **{"command-line": line})
    after, total_bytes = guest.vmstat(), guest.meminfo()["MemTotal"]
    stats, update_s = said["stats"], int(said["last-update"])
    return _Export(stats, update_s, str(hmp), program, total_bytes, before, after)


def _ask_program(socket: Path) -> Mapping[str, int | None]:
    command = [sys.executable, "-m", "ballonet", "stats", str(socket), "--json"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_PROGRAM_S, check=True
        )
    except subprocess.SubprocessError as error:
        said = getattr(error, "stderr", None)
        raise GuestError(f"ballonet stats: {error}; {said}") from error
    stats: dict[str, int | None] = json.loads(done.stdout)["stats"]
    return stats


def _claim(notebook: Notebook, name: str, export: _Export) -> None:
    notebook.claim(
        f"{name}: `{_TOTAL}` is the guest's MemTotal, by QMP and by `ballonet stats`",
        holds=export.total_bytes == export.qmp[_TOTAL] == export.program["total_memory_bytes"],
    )
    for key, counter in _COUNTERS.items():
        program = export.program[key.removeprefix("stat-").replace("-", "_")]
        notebook.claim(
            f"{name}: `{key}` lies between what the guest counted before and after",
            holds=program is not None
            and export.before[counter] <= program <= export.qmp[key] <= export.after[counter],
        )
    notebook.claim(f"{name}: it says when the values came", holds=export.update_s > 0)


def _value(unit: StatUnit, value: int | None) -> str:
    if value is None:
        return "no such key"
    if value == UNSET:
        return "not sent"
    return format_bytes(value) if unit is StatUnit.BYTES else f"{value:,}"


EXPERIMENT: Final = Experiment(
    name="statistics-export",
    question="How are the guest's statistics exported?",
    answer="The device keeps the last values that the driver sent, and whoever wants them reads the"
    " property guest-stats of the device's object (qom-get), which does not ask the guest; setting"
    " guest-stats-polling-interval has new ones sent.",
    explanation="The answer has a value for each key that the device knows, and the time of the"
    " last update. A key that the guest's kernel does not send reads as 2**64 - 1. `ballonet stats`"
    " reads the same property: it sets the interval, waits for an update, and puts the interval"
    " back. Our monitor has the same property at the same path, and `info stats` for people; QEMU's"
    " has qom-get there. The keys that a newer QEMU adds are names for newer statistics of Linux.",
    sources=(
        "Virtio specification 1.3, section 5.5.6.3 (Memory Statistics)",
        "QEMU docs/interop/virtio-balloon-stats.rst",
        "QEMU hw/virtio/virtio-balloon.c, balloon_stats_get_all, balloon_stats_set_poll_interval",
        "Linux drivers/virtio/virtio_balloon.c, update_balloon_stats",
    ),
    runs={Kernel.QEMU: _on_qemu},
)
