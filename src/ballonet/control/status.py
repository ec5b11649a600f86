"""A balloon at one moment: every value of it was true at the same time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from enum import Enum
from typing import Any, Final, NamedTuple

from ballonet.balloon.clock import NS_PER_S
from ballonet.balloon.counters import COUNTERS, Counters
from ballonet.balloon.inhibition import InhibitReason
from ballonet.balloon.request import RequestTimes, Stage, stage_of
from ballonet.balloon.stats_reading import StatsDiagnosis, StatsReading
from ballonet.virtio.features import Feature
from ballonet.virtio.stats import StatsSample

__all__ = ["STATUS_ROWS", "Status", "StatusReports", "StatusRow", "told"]


_NS_PER_MS: Final = 1_000_000


class StatusRow(NamedTuple):
    """How one value of a status is told to programs."""

    name: str  #: of the attribute
    key: str
    help: str
    show: Callable[[Any], object]


def _same(value: object) -> object:
    return value


def _told(text: str, key: str = "", show: Callable[[Any], object] = _same) -> dict[str, object]:
    """How programs are told a value; `key`: the attribute's own name if not given."""
    return {"help": text, "key": key, "show": show}


def _word(value: Enum) -> str:
    return value.name.lower().replace("_", "-")


def _with_dashes(counters: Counters) -> dict[str, int]:
    return {name.replace("_", "-"): getattr(counters, name) for name, _ in COUNTERS}


@dataclass(frozen=True, slots=True)
class StatusReports:
    """What the newest status report of a Hyper-V guest says, in bytes; None: none came."""

    are_enabled: bool  #: the guest is told that the host wants them
    committed_bytes: int | None = None
    available_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """What is known of a balloon and its guest; pages are balloon pages of 4 KiB."""

    now_ns: int  #: the moment, by the clock of the times inside
    protocol: str = field(metadata=_told("of the balloon: virtio, hyperv or vmware"))
    connected: bool = field(metadata=_told("a guest's machine is there"))
    running: bool = field(metadata=_told("a driver's rings are served"))
    paused: bool = field(metadata=_told("stopped by the operator"))
    features: tuple[str, ...] = field(
        metadata=_told("what guest and host agreed on, in the protocol's words", show=list)
    )
    negotiated: Feature  #: the same, of virtio's balloon; told by their names
    guest_bytes: int = field(
        metadata=_told("memory that the guest's machine shares", "guest-memory")
    )
    held_bytes: int = field(
        metadata=_told("host memory that stands behind it, measured", "host-memory")
    )
    target_pages: int = field(
        metadata=_told("what the host wants in the balloon, in pages of 4 KiB")
    )
    actual_pages: int = field(metadata=_told("what the driver says is in it, in pages of 4 KiB"))
    request: RequestTimes  #: told as ages, by `request_ages`
    stats_diagnosis: StatsDiagnosis = field(
        metadata=_told("why there are statistics, or none", "stats", lambda why: why.value)
    )
    stats: StatsReading | None  #: told by commands of QEMU's own
    poll_interval_s: int  #: the same
    poison_val: int | None = field(
        metadata=_told("what the guest's free pages hold; null: not known")
    )
    hint_state: str = field(metadata=_told("where the hint round stands", "hint-round", str.lower))
    waiting_bytes: int = field(
        metadata=_told("in the balloon, to be dropped in a quiet moment", "waiting")
    )
    inhibited: tuple[InhibitReason, ...] = field(
        metadata=_told(
            "why nothing is dropped", show=lambda reasons: [reason.value for reason in reasons]
        )
    )
    report_bytes_per_s: int | None  #: limit of what is discarded of reports; None: none
    broken: str | None = field(metadata=_told("how the driver broke the device"))
    problem: str | None = field(metadata=_told("what has to be mended at the guest's machine"))
    counters: Counters = field(metadata=_told("what the device has done", show=_with_dashes))
    status_reports: StatusReports | None = (
        None  #: those of Hyper-V's guests; told by QEMU's command
    )
    details: Mapping[str, object] = field(
        default_factory=dict,
        metadata=_told("figures of Hyper-V's or VMware's protocol alone", show=dict),
    )

    @property
    def sample(self) -> StatsSample | None:
        """What the driver said last."""
        return None if self.stats is None else self.stats.sample

    @property
    def stats_age_s(self) -> float | None:
        """Seconds since then."""
        return None if self.stats is None else (self.now_ns - self.stats.received_ns) / NS_PER_S

    @property
    def stage(self) -> Stage:
        """What the newest change of the target waited for at that moment."""
        return self.stage_at(self.now_ns)

    @property
    def request_ages(self) -> dict[str, float | int | None]:
        """Number of the newest request, and milliseconds since each of its steps."""
        ages: dict[str, float | int | None] = {"number": self.request.number}
        for one in fields(self.request):
            if one.name != "number":
                at_ns = getattr(self.request, one.name)
                age_ms = None if at_ns is None else round((self.now_ns - at_ns) / _NS_PER_MS, 3)
                ages[one.name.removesuffix("_ns") + "-ms-ago"] = age_ms
        return ages

    def stage_at(self, now_ns: int) -> Stage:
        """What it waits for if nothing has happened since."""
        return stage_of(
            self.request, self.target_pages, self.actual_pages, running=self.running, now_ns=now_ns
        )


def _row(one: Field[Any]) -> StatusRow:
    data = one.metadata
    return StatusRow(
        one.name, data["key"] or one.name.replace("_", "-"), data["help"], data["show"]
    )


#: Everything that programs are told, in order; the last ones follow from others.
STATUS_ROWS: Final = (
    *(_row(one) for one in fields(Status) if one.metadata),
    StatusRow("stage", "stage", "what the newest change of the target waits for", _word),
    StatusRow("stage", "why", "the same in words", lambda stage: stage.value),
    StatusRow("request_ages", "request", "milliseconds since each step of that change", _same),
    StatusRow("stats_age_s", "stats-age", "seconds since the newest statistics", _same),
)


def told(status: Status) -> dict[str, object]:
    """A status as programs are told it."""
    return {row.key: row.show(getattr(status, row.name)) for row in STATUS_ROWS}
