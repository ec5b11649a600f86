"""What a machine can do for ballooning, each tried for real: the checks of `ballonet doctor`.

Nothing is installed, changed or left behind.  A check that fails says what that means, and the way
out.
Units: bytes, seconds.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Sequence
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple

from ballonet.agent.only_agent import CONTROL_NAME
from ballonet.device.balloon import BalloonSettings
from ballonet.errors import BallonetError
from ballonet.guests.ballooned import BalloonedEmbeddedGuest
from ballonet.guests.embedded import EmbeddedGuestSettings
from ballonet.guests.kernel_package import find_kernel_package
from ballonet.guests.qemu_kernel import find_qemu_kernel
from ballonet.host.directory import own_directory
from ballonet.memory.discard import discards_in_one_call
from ballonet.memory.shared_file import SharedFile
from ballonet.migration.tracking import GuestSideTracking, WriteTracker
from ballonet.runtime.sandbox import Sandbox, SandboxLimits
from ballonet.units import bytes_to_pages, format_bytes
from ballonet.vms.discovery import find_machines
from ballonet.vms.libvirt_api import is_installed

__all__ = ["CHECKS", "Check", "Grade", "Result"]

_MIB: Final = 1 << 20
_GUEST_BYTES: Final = 64 * _MIB
_BALLOON_BYTES: Final = 16 * _MIB
_STALLED_AFTER_S: Final = 20.0


class Grade(Enum):
    """What came of a check; the value is how it is said."""

    FINE = "ok"
    LACKING = "missing"  #: something that not everybody needs is not there
    BROKEN = "BROKEN"  #: ballonet cannot do here what it is for


class Result(NamedTuple):
    """Of one check."""

    grade: Grade
    words: str


class Check(NamedTuple):
    """One row."""

    name: str
    is_for: str  #: what needs it
    run: Callable[[], Result]


def _self_test() -> Result:
    """A guest of ours gives memory, and gets it back."""
    settings = EmbeddedGuestSettings(_GUEST_BYTES)
    try:
        with BalloonedEmbeddedGuest(settings, BalloonSettings()) as ballooned:
            ballooned.guest.use_memory(90)
            before = ballooned.guest.host_memory_bytes()
            pages = bytes_to_pages(_BALLOON_BYTES)
            given = ballooned.resize(pages, stalled_after_s=_STALLED_AFTER_S)
            freed = before - ballooned.guest.host_memory_bytes()
            taken = ballooned.resize(0, stalled_after_s=_STALLED_AFTER_S)
    except (BallonetError, OSError) as error:
        return Result(Grade.BROKEN, str(error))
    if not (given.reached and taken.reached):
        return Result(Grade.BROKEN, "a guest of ours did not reach the size it was asked for")
    if freed < _BALLOON_BYTES // 2:
        words = f"a guest gave {format_bytes(_BALLOON_BYTES)}, and the host got {freed} bytes"
        return Result(Grade.BROKEN, words)
    after_s = given.seconds if given.host_seconds is None else given.host_seconds
    words = f"a guest gave {format_bytes(_BALLOON_BYTES)}; the host had them after {after_s:.2f} s"
    return Result(Grade.FINE, words)


def _discard() -> Result:
    if discards_in_one_call():
        return Result(Grade.FINE, "many ranges in one system call")
    return Result(Grade.FINE, "a system call for each range; Linux 6.13 needs one for many")


def _migration() -> Result:
    """Memory of ours is watched for a moment."""
    try:
        with SharedFile("ballonet-doctor", _MIB) as file:
            tracking = GuestSideTracking(file.view)
            try:
                for _ in tracking.start():
                    pass
                tracker = WriteTracker(os.getpid(), tracking.address, tracking.size)
                tracker.start()
                file.view[8192] = 1
                seen = tracker.take()
                tracker.close()
            finally:
                tracking.close()
    except BallonetError as error:
        return Result(Grade.LACKING, str(error))
    if list(seen.pairs()) != [(2, 1)]:
        return Result(Grade.BROKEN, "a write to watched memory was not seen")
    return Result(Grade.FINE, "writes to a guest's memory are seen while it runs")


def _sandbox() -> Result:
    if Sandbox(SandboxLimits(1 << 50, 1 << 20, 1 << 40)).filters_system_calls:
        return Result(Grade.FINE, "devices give up system calls that they do not need")
    return Result(
        Grade.LACKING, "system calls are not filtered: pip install 'ballonet[sandbox]', libseccomp2"
    )


def _machines() -> Result:
    try:
        found = asyncio.run(find_machines())
    except BallonetError as error:
        return Result(Grade.BROKEN, str(error))
    whose = "of every user" if os.geteuid() == 0 else "of this user; those of others as root"
    unreached = sum(bool(one.why_not) for one in found)
    more = f", {unreached} of them out of reach: `ballonet list` says why" if unreached else ""
    return Result(Grade.FINE, f"{len(found)} run here{more}; seen are those {whose}")


def _agent() -> Result:
    missing = [name for name in ("msgspec", "prometheus_client") if find_spec(name) is None]
    if missing:
        return Result(Grade.LACKING, f"without {', '.join(missing)}: pip install 'ballonet[agent]'")
    try:
        path = own_directory() / CONTROL_NAME
        if path.is_socket():
            return Result(Grade.FINE, f"one of this user runs, and listens at {path}")
    except BallonetError as error:
        return Result(Grade.LACKING, str(error))
    return Result(Grade.FINE, "none of this user runs; `ballonet agent` starts one")


def _pressure() -> Result:
    if Path("/proc/pressure/memory").exists():
        return Result(Grade.FINE, "the kernel tells how long programs wait for memory")
    return Result(Grade.LACKING, "the host's kernel has no PSI, or needs psi=1 on its command line")


def _libvirt() -> Result:
    if not is_installed():
        return Result(Grade.LACKING, "domains are not seen: pip install 'ballonet[libvirt]'")
    return Result(Grade.FINE, "libvirt-python is there")


def _uml() -> Result:
    try:
        return Result(Grade.FINE, f"User-Mode Linux {find_kernel_package().release}")
    except BallonetError as error:
        return Result(Grade.LACKING, str(error))


def _qemu() -> Result:
    try:
        return Result(Grade.FINE, f"and a kernel for it, {find_qemu_kernel().release}")
    except BallonetError as error:
        return Result(Grade.LACKING, str(error))


def _compiler() -> Result:
    if shutil.which("gcc"):
        return Result(Grade.FINE, "gcc is there")
    return Result(Grade.LACKING, "as root: apt-get install gcc libc6-dev")


CHECKS: Final[Sequence[Check]] = (
    Check("self-test", "everything", _self_test),
    Check("giving memory back", "device, host", _discard),
    Check("sandbox", "device, host", _sandbox),
    Check("machines", "list, set, stats, top, agent", _machines),
    Check("libvirt", "domains of libvirt", _libvirt),
    Check("agent", "metrics, autopilot", _agent),
    Check("pressure", "metrics, autopilot", _pressure),
    Check("live migration", "migrate, receive, snapshot", _migration),
    Check("real kernel", "demo, features, lab, conform driver --linux", _uml),
    Check("QEMU", "lab, conform --qemu, guest vmware and hyperv", _qemu),
    Check("compiler", "demo autopilot, guest hyperv", _compiler),
)
