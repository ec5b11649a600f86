"""A machine's migration at one moment, as its monitor tells it, and how fast it goes.

What `query-migrate` answers is foreign input and display at once: a figure that cannot be is
clamped, for a number that looks odd must not end a migration; a reply of another shape is refused.
Time is handed in.  Speeds are measured: QEMU's own `mbps` is of the last 100 ms alone.
Units: bytes, seconds; pages are QEMU's, of `page-size` bytes.
Source: QEMU qapi/migration.json MigrationInfo, MigrationStats.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from ballonet.vms.reply import integer, optional, printable

__all__ = [
    "MigrationLook",
    "MigrationOutcome",
    "MigrationProgress",
    "MigrationRates",
    "MigrationStage",
    "parse_look",
]

_COMMAND: Final = "query-migrate"
#: A status that newer machines may have, and a reason, are shown; no longer than this.
_STATUS_LETTERS: Final = 40
_REASON_LETTERS: Final = 400
#: Over which speeds are taken.
_SPEED_WINDOW_S: Final = 3.0
#: A page of QEMU's, where it does not tell.
_PAGE_BYTES: Final = 4096


class MigrationStage(Enum):
    """What a status means for whoever waits."""

    NONE = "none has begun"
    BEFORE = "the guest runs at the source"  #: or is paused there for a moment
    AFTER = "the guest runs at the destination, and its memory is still being sent"
    SPLIT = "post-copy is interrupted: the guest stands still, its memory is at both ends"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    FAILED = "failed"

    @property
    def is_over(self) -> bool:
        """Nothing more happens by itself."""
        return self not in (MigrationStage.BEFORE, MigrationStage.AFTER)


#: Whatever is missing here is a step at the source, such as `setup`, `cancelling` or `device`.
_STAGES: Final = {
    "none": MigrationStage.NONE,
    "postcopy-device": MigrationStage.AFTER,
    "postcopy-active": MigrationStage.AFTER,
    "postcopy-recover-setup": MigrationStage.AFTER,
    "postcopy-recover": MigrationStage.AFTER,
    "postcopy-paused": MigrationStage.SPLIT,
    "completed": MigrationStage.COMPLETED,
    "cancelled": MigrationStage.CANCELLED,
    "failed": MigrationStage.FAILED,
}


@dataclass(frozen=True, slots=True)
class MigrationLook:
    """One moment of a migration; what is not told is 0, or None where 0 means something."""

    status: str = "none"  #: QEMU's word
    reason: str = ""  #: why it failed, in its words, on one line
    note: str = ""  #: what a machine of ours wants people to know, on one line
    total_bytes: int = 0  #: of memory
    remaining_bytes: int = 0  #: of it, in this pass
    transferred_bytes: int = 0  #: on the wire
    zero_pages: int = 0
    normal_bytes: int = 0  #: of pages that were sent with their content
    dirty_bytes_per_s: int = 0  #: written by the guest, as measured once a pass
    passes: int = 0
    total_time_s: float | None = None
    downtime_s: float | None = None  #: once it is completed
    expected_downtime_s: float | None = None

    @property
    def stage(self) -> MigrationStage:
        """What the status means."""
        return _STAGES.get(self.status, MigrationStage.BEFORE)


def parse_look(reply: object) -> MigrationLook:
    """Read a reply of `query-migrate`. Raises: MonitorError, if it is something else."""
    status = optional(reply, "status", str, _COMMAND)
    reason = optional(reply, "error-desc", str, _COMMAND) or ""
    note = optional(reply, "x-ballonet-note", str, _COMMAND) or ""
    ram = optional(reply, "ram", dict, _COMMAND) or {}
    total_bytes = _count(ram, "total")
    return MigrationLook(
        status=_one_line(status, _STATUS_LETTERS) if status else "none",
        reason=_one_line(reason, _REASON_LETTERS),
        note=_one_line(note, _REASON_LETTERS),
        total_bytes=total_bytes,
        remaining_bytes=min(_count(ram, "remaining"), total_bytes),
        transferred_bytes=_count(ram, "transferred"),
        zero_pages=_count(ram, "duplicate"),
        normal_bytes=_count(ram, "normal-bytes"),
        dirty_bytes_per_s=_count(ram, "dirty-pages-rate")
        * (_count(ram, "page-size") or _PAGE_BYTES),
        passes=_count(ram, "dirty-sync-count"),
        total_time_s=_seconds(reply, "total-time"),
        downtime_s=_seconds(reply, "downtime"),
        expected_downtime_s=_seconds(reply, "expected-downtime"),
    )


@dataclass(frozen=True, slots=True)
class MigrationOutcome:
    """How it ended."""

    look: MigrationLook
    why: str
    timed_out: bool
    source_runs: bool | None  #: None: not known
    squeezed_to_bytes: int | None
    size_put_back_at: str | None  #: source, destination; None: nowhere, or not known

    @property
    def is_completed(self) -> bool:
        """The guest is at the destination, with all its memory."""
        return self.look.stage is MigrationStage.COMPLETED


@dataclass(frozen=True, slots=True)
class MigrationProgress:
    """Where a migration stands."""

    look: MigrationLook
    elapsed_s: float
    sent_bytes_per_s: float  #: on the wire
    done_bytes_per_s: float  #: of the guest's memory, with what needs no sending
    eta_s: float | None  #: until all is sent, at these speeds; None: not known, or never

    @property
    def fraction(self) -> float:
        """Part of this pass, 0 to 1."""
        total_bytes = self.look.total_bytes
        return 1.0 - self.look.remaining_bytes / total_bytes if total_bytes else 0.0


class MigrationRates:
    """Makes speeds of one look after the other."""

    def __init__(self, now_s: float) -> None:
        self._begun_s = now_s
        #: time, bytes sent, bytes of memory done: all that has left `remaining`, of every pass
        self._seen = [(now_s, 0, 0)]
        self._remaining_bytes: int | None = None

    def see(self, now_s: float, look: MigrationLook) -> MigrationProgress:
        """Note what is known now."""
        before = self._remaining_bytes
        # It only grows where another pass begins.
        fell_bytes = 0 if before is None else max(0, before - look.remaining_bytes)
        self._remaining_bytes = look.remaining_bytes if look.total_bytes else None
        _, _, done_bytes = self._seen[-1]
        self._seen.append((now_s, look.transferred_bytes, done_bytes + fell_bytes))
        while len(self._seen) > 2 and self._seen[1][0] <= now_s - _SPEED_WINDOW_S:
            del self._seen[0]
        then_s, then_sent, then_done = self._seen[0]
        span_s = now_s - then_s
        if span_s <= 0:
            return MigrationProgress(look, now_s - self._begun_s, 0.0, 0.0, None)
        sent = max(0, look.transferred_bytes - then_sent) / span_s
        done = (done_bytes + fell_bytes - then_done) / span_s
        return MigrationProgress(look, now_s - self._begun_s, sent, done, _eta_s(look, done))


def _eta_s(look: MigrationLook, done_bytes_per_s: float) -> float | None:
    """Each pass sends what was written during the one before: r/v + (r/v)(w/v) + ... = r/(v - w).

    With post-copy the guest writes elsewhere, and nothing is sent twice.
    """
    writes = 0 if look.stage is MigrationStage.AFTER else look.dirty_bytes_per_s
    pace = done_bytes_per_s - writes
    return look.remaining_bytes / pace if look.total_bytes and pace > 0 else None


def _count(ram: object, name: str) -> int:
    """A number that is not negative; 0, where it is missing or is."""
    return max(0, integer(ram, name, _COMMAND)) if _is_there(ram, name) else 0


def _seconds(reply: object, name: str) -> float | None:
    return max(0, integer(reply, name, _COMMAND)) / 1000 if _is_there(reply, name) else None


def _is_there(reply: object, name: str) -> bool:
    return optional(reply, name, int, _COMMAND) is not None


def _one_line(text: str, letters: int) -> str:
    return printable(" ".join(text.split())[:letters])
