"""What libvirt tells of a domain, read: KiB become bytes here, and its names the specification's.

libvirt's `available` is all memory that the guest's kernel manages, and not what it has available,
which is `usable`.  What a guest does not send is missing.
Units: bytes left to the guest (logical size), seconds; KiB only in what is read.
Source: libvirt include/libvirt/libvirt-domain.h, qemuDomainGetStatsBalloon in
src/qemu/qemu_driver.c; https://libvirt.org/formatdomain.html#memory-balloon-device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple
from xml.etree import ElementTree as ET

from ballonet.errors import MonitorError
from ballonet.vms.guest_stats import GuestStats
from ballonet.vms.reply import integer

__all__ = [
    "NO_BALLOON",
    "BalloonElement",
    "DomainRecord",
    "is_stopped",
    "job_in_words",
    "kib_of",
    "parse_actual",
    "parse_balloon",
    "parse_record",
    "parse_statistics",
    "silence_of",
]

NO_BALLOON: Final = "its domain has no balloon: <memballoon model='none'/>"

_KIB: Final = 1 << 10
_STATS: Final = "domain statistics"
#: Of a domain that was told no sample yet it is 0.
_TIME_END_S: Final = 1 << 40


class _StatRow(NamedTuple):
    name: str  #: as `virtio.stats.STATS` has it
    key: str  #: libvirt's
    unit_bytes: int  #: 1: it is no size


_ROWS: Final = (
    _StatRow("swap_in", "swap_in", _KIB),
    _StatRow("swap_out", "swap_out", _KIB),
    _StatRow("majflt", "major_fault", 1),
    _StatRow("minflt", "minor_fault", 1),
    _StatRow("memfree", "unused", _KIB),
    _StatRow("memtot", "available", _KIB),
    _StatRow("avail", "usable", _KIB),
    _StatRow("caches", "disk_caches", _KIB),
    _StatRow("htlb_pgalloc", "hugetlb_pgalloc", 1),
    _StatRow("htlb_pgfail", "hugetlb_pgfail", 1),
)

_PAUSED, _CRASHED, _PMSUSPENDED = 3, 6, 7  # virDomainState
#: Why it is paused, where that is nobody's wish [virDomainPausedReason].
_REASONS: Final = {
    2: "it is migrating",
    3: "libvirt is saving it",
    4: "libvirt is dumping it",
    5: "paused by an error of its disk",
    6: "paused by its watchdog",
    9: "libvirt is taking a snapshot of it",
    10: "its guest has crashed",
    12: "it is migrating",
    13: "its post-copy migration has failed",
}
_OCCUPIED, _MONITOR_ERROR = 2, 3  # virDomainControlState
#: What libvirt does with it [virDomainJobOperation].
_OPERATIONS: Final = {
    1: "starting it",
    2: "saving it",
    3: "restoring it",
    4: "receiving it by migration",
    5: "migrating it",
    6: "taking a snapshot of it",
    7: "reverting it to a snapshot",
    8: "dumping it",
    9: "backing it up",
    10: "removing a snapshot of it",
}


@dataclass(frozen=True, slots=True)
class BalloonElement:
    """The <memballoon> of a domain that runs."""

    is_there: bool
    poll_interval_s: int = 0
    deflates_on_oom: bool = False


@dataclass(frozen=True, slots=True)
class DomainRecord:
    """What libvirt's statistics tell of one domain."""

    memory_bytes: int
    actual_bytes: int  #: as of QEMU's newest event, of which there is one a second
    stats: GuestStats
    is_whole: bool  #: QEMU was asked; if not, statistics are missing
    paused: bool
    problem: str | None


def kib_of(size_bytes: int) -> int:
    """KiB in which a size fits, so that the guest keeps no less."""
    return -(-size_bytes // _KIB)


def parse_balloon(xml: str) -> BalloonElement:
    """Read a domain's description. Raises: MonitorError."""
    try:
        element = ET.fromstring(xml).find("./devices/memballoon")  # noqa: S314 - libvirt's
        if element is None or element.get("model") == "none":
            return BalloonElement(is_there=False)
        stats = element.find("stats")
        period_s = 0 if stats is None else int(stats.get("period", "0"))
    except (ET.ParseError, ValueError) as error:
        raise MonitorError(
            f"libvirt describes the domain in a way that makes no sense: {error}"
        ) from None
    return BalloonElement(
        is_there=True,
        poll_interval_s=max(0, period_s),
        deflates_on_oom=element.get("autodeflate") == "on",
    )


def parse_record(values: Mapping[str, object]) -> DomainRecord:
    """Read one domain's row of libvirt's statistics. Raises: MonitorError."""
    prefix = "balloon."
    balloon = {
        key.removeprefix(prefix).replace("-", "_"): value
        for key, value in values.items()
        if key.startswith(prefix)
    }
    state = integer(values, "state.state", _STATS), integer(values, "state.reason", _STATS)
    return DomainRecord(
        memory_bytes=_bytes(balloon, "maximum"),
        actual_bytes=_bytes(balloon, "current"),
        stats=parse_statistics(balloon),
        is_whole="rss" in balloon,
        paused=is_stopped(state),
        problem=_problem(state),
    )


def parse_statistics(values: Mapping[str, object]) -> GuestStats:
    """Read the guest's statistics under libvirt's names. Raises: MonitorError."""
    found = {
        row.name: max(0, integer(values, row.key, _STATS)) * row.unit_bytes
        for row in _ROWS
        if row.key in values
    }
    last_update_s = integer(values, "last_update", _STATS) if "last_update" in values else 0
    return GuestStats(last_update_s if 0 < last_update_s < _TIME_END_S else None, found)


def parse_actual(values: Mapping[str, object]) -> int | None:
    """What the guest keeps, as QEMU was asked for it; None: there is no balloon."""
    return _bytes(values, "actual") if "actual" in values else None


def is_stopped(state: Sequence[int]) -> bool:
    """Its processors stand still, by state and reason."""
    return state[0] in (_PAUSED, _CRASHED, _PMSUSPENDED)


def job_in_words(operation: object) -> str | None:
    """What libvirt does with it that takes long, by its job's operation; None: there is no job."""
    if operation is None:
        return None
    what = _OPERATIONS.get(operation) if isinstance(operation, int) else None
    return f"libvirt is {what or 'busy with it'}"


def silence_of(control: Sequence[int]) -> str:
    """Why there are no statistics of it, by virDomainControlInfo."""
    state, _, milliseconds = control
    if state == _MONITOR_ERROR:
        return "libvirt has lost its monitor"
    if state == _OCCUPIED:
        return f"its QEMU has not answered libvirt for {milliseconds / 1000:.0f} s"
    return "libvirt does not tell its statistics"


def _problem(state: Sequence[int]) -> str | None:
    if state[0] == _CRASHED:
        return _REASONS[10]
    if state[0] == _PMSUSPENDED:
        return "its guest has suspended it"
    return _REASONS.get(state[1]) if state[0] == _PAUSED else None


def _bytes(values: Mapping[str, object], key: str) -> int:
    return max(0, integer(values, key, _STATS)) * _KIB
