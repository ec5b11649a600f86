"""What a worker and its supervisor tell each other: messages of fixed size, checked in full.

The supervisor asks, the worker answers with its status, everything of one moment.  Times are told
as ages at that moment; the newest request's stage and its reason follow from them.  A worker may
have been taken over: of its message every field is checked, and a status that is read says nothing
about what is true.

    B x 4  flags; hint round, diagnosis of statistics: their places; inhibited: a bit a reason
    I x 4  target, actual: balloon pages; seconds between statistics; poison value
    Q x 5  negotiated features; bytes of the guest, held by the host, waiting; number of the request
    q      age of each of its steps, in ns; -1: not yet
    q q Q  age of the newest statistics, in ns, -1: none; their time of day; a bit for each there is
    Q      each statistic, a row of `STATS`
    Q      each counter, a row of `COUNTERS`
    text   how the driver broke the device, what has to be mended: UTF-8, filled up with zeros

In the host's byte order, packed.  Statistics that no row knows are not told.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import fields
from enum import Enum
from typing import Final, NamedTuple, Self, TypeVar

from ballonet.balloon.counters import COUNTERS, Counters
from ballonet.balloon.inhibition import InhibitReason
from ballonet.balloon.request import RequestTimes
from ballonet.balloon.stats_reading import StatsDiagnosis, StatsReading
from ballonet.control.status import Status
from ballonet.device.hint_round import HintState
from ballonet.errors import WireError
from ballonet.virtio.features import Feature, feature_names
from ballonet.virtio.stats import STATS, StatsSample

__all__ = ["ASK_STATUS", "STATUS_BYTES", "PollChange", "pack_status", "parse_status"]

E = TypeVar("E", bound=Enum)

#: A question that changes nothing.
ASK_STATUS: Final = b"?"
_CHANGE: Final = struct.Struct("=cII")
_CHANGE_KIND: Final = b"p"

_PROTOCOL: Final = "virtio"  # of every guest of a host
_STEPS: Final = tuple(one.name for one in fields(RequestTimes) if one.name != "number")
#: Longer ones are cut; the longest today has 180.
_TEXT_BYTES: Final = 256
_HEAD: Final = struct.Struct("=4B4I5Q")
_TIMES: Final = struct.Struct(f"={len(_STEPS)}q")
_STATS: Final = struct.Struct(f"=qqQ{len(STATS)}Q")
_COUNTERS: Final = struct.Struct(f"={len(COUNTERS)}Q")
_TEXTS: Final = struct.Struct(f"={_TEXT_BYTES}s{_TEXT_BYTES}s")
_PARTS: Final = (_HEAD, _TIMES, _STATS, _COUNTERS, _TEXTS)
STATUS_BYTES: Final = sum(part.size for part in _PARTS)

_FLAGS: Final = ("connected", "running", "paused", "knows_poison", "is_first_sample")
_FEATURES: Final = int(sum(Feature))
_UNKNOWN_AGE: Final = -1


class PollChange(NamedTuple):
    """A question that has a guest asked for statistics at another interval, in seconds."""

    interval_s: int
    instead_of_s: int  #: a guest that has another one keeps it

    def pack(self) -> bytes:
        """As a message."""
        return _CHANGE.pack(_CHANGE_KIND, *self)

    @classmethod
    def parse(cls, raw: bytes) -> Self | None:
        """Read a supervisor's message; None: it is another question."""
        if len(raw) != _CHANGE.size or not raw.startswith(_CHANGE_KIND):
            return None
        return cls(*_CHANGE.unpack(raw)[1:])


class _Head(NamedTuple):
    """The first part of the message."""

    flags: int
    hint_round: int
    diagnosis: int
    inhibited: int
    target_pages: int
    actual_pages: int
    poll_interval_s: int
    poison_val: int
    negotiated: int
    guest_bytes: int
    held_bytes: int
    waiting_bytes: int
    request_number: int


def pack_status(status: Status) -> bytes:
    """A status as a message."""
    times = [getattr(status.request, step) for step in _STEPS]
    counters = [getattr(status.counters, name) for name, _ in COUNTERS]
    return b"".join(
        (
            _HEAD.pack(*_head_of(status)),
            _TIMES.pack(*(_age_ns(status, at_ns) for at_ns in times)),
            _STATS.pack(*_stats_of(status)),
            _COUNTERS.pack(*counters),
            _TEXTS.pack(_raw(status.broken), _raw(status.problem)),
        )
    )


def parse_status(raw: bytes, now_ns: int) -> Status:
    """Read a worker's message, which came at `now_ns` of our clock. Raises: WireError."""
    if len(raw) != STATUS_BYTES:
        raise _refusal("status", f"{len(raw)} bytes", f"must be {STATUS_BYTES}")
    parts, at = [], 0
    for part in _PARTS:
        parts.append(part.unpack_from(raw, at))
        at += part.size
    head = _Head(*parts[0])
    _check_head(head)
    flags = {name: bool(head.flags & 1 << place) for place, name in enumerate(_FLAGS)}
    times = [_at_ns(age_ns, now_ns, step) for step, age_ns in zip(_STEPS, parts[1], strict=True)]
    return Status(
        now_ns=now_ns,
        protocol=_PROTOCOL,
        connected=flags["connected"],
        running=flags["running"],
        paused=flags["paused"],
        features=tuple(feature_names(head.negotiated)),
        negotiated=Feature(head.negotiated),
        guest_bytes=head.guest_bytes,
        held_bytes=head.held_bytes,
        target_pages=head.target_pages,
        actual_pages=head.actual_pages,
        request=RequestTimes(head.request_number, *times),
        stats_diagnosis=_member(StatsDiagnosis, head.diagnosis),
        stats=_read_stats(parts[2], now_ns, is_first=flags["is_first_sample"]),
        poll_interval_s=head.poll_interval_s,
        poison_val=head.poison_val if flags["knows_poison"] else None,
        hint_state=_member(HintState, head.hint_round).name,
        waiting_bytes=head.waiting_bytes,
        inhibited=tuple(
            reason for place, reason in enumerate(InhibitReason) if head.inhibited & 1 << place
        ),
        report_bytes_per_s=None,
        broken=_text(parts[4][0], "broken"),
        problem=_text(parts[4][1], "problem"),
        counters=Counters(*parts[3]),
    )


def _head_of(status: Status) -> _Head:
    flags = (
        status.connected,
        status.running,
        status.paused,
        status.poison_val is not None,
        status.stats is not None and status.stats.is_first,
    )
    return _Head(
        flags=_bits(flags),
        hint_round=_place(HintState, HintState[status.hint_state]),
        diagnosis=_place(StatsDiagnosis, status.stats_diagnosis),
        inhibited=_bits(reason in status.inhibited for reason in InhibitReason),
        target_pages=status.target_pages,
        actual_pages=status.actual_pages,
        poll_interval_s=status.poll_interval_s,
        poison_val=status.poison_val or 0,
        negotiated=status.negotiated,
        guest_bytes=status.guest_bytes,
        held_bytes=status.held_bytes,
        waiting_bytes=status.waiting_bytes,
        request_number=status.request.number,
    )


def _check_head(head: _Head) -> None:
    """Raises: WireError."""
    _check(head.flags < 1 << len(_FLAGS), "flags", head.flags, "must be known")
    _check(head.inhibited < 1 << len(InhibitReason), "inhibited", head.inhibited, "must be known")
    _check(not head.negotiated & ~_FEATURES, "features", hex(head.negotiated), "must be known")
    if not head.flags & 1 << _FLAGS.index("knows_poison"):
        _check(not head.poison_val, "poison value", head.poison_val, "must be 0 if it is unknown")
    if not head.flags & 1 << _FLAGS.index("connected"):
        sizes = head.guest_bytes, head.held_bytes
        _check(sizes == (0, 0), "memory", sizes, "must be 0 without a front-end")


def _stats_of(status: Status) -> list[int]:
    reading = status.stats
    if reading is None:
        return [_UNKNOWN_AGE, 0, 0, *(0 for _ in STATS)]
    values = reading.sample.values
    return [
        _age_ns(status, reading.received_ns),
        reading.received_wall_s,
        _bits(row.name in values for row in STATS),
        *(values.get(row.name, 0) for row in STATS),
    ]


def _read_stats(part: tuple[int, ...], now_ns: int, *, is_first: bool) -> StatsReading | None:
    """Raises: WireError."""
    age_ns, wall_s, mask, *values = part
    received_ns = _at_ns(age_ns, now_ns, "age of the statistics")
    _check(wall_s >= 0, "time of the statistics", wall_s, "must not be negative")
    _check(mask < 1 << len(STATS), "statistics", hex(mask), "must be known")
    missing = [value for place, value in enumerate(values) if not mask & 1 << place]
    _check(not any(missing), "statistics", missing, "must be 0 where there are none")
    if received_ns is None:
        is_none = not (wall_s or mask or is_first)
        _check(is_none, "statistics", wall_s, "must be 0 where there are none")
        return None
    # What was not sent is unknown, which is not the same as 0.
    sent = {row.name: values[place] for place, row in enumerate(STATS) if mask & 1 << place}
    return StatsReading(StatsSample(sent), received_ns, wall_s, is_first)


def _age_ns(status: Status, at_ns: int | None) -> int:
    return _UNKNOWN_AGE if at_ns is None else max(0, status.now_ns - at_ns)


def _at_ns(age_ns: int, now_ns: int, field: str) -> int | None:
    """When something was, by our clock. Raises: WireError."""
    _check(age_ns >= _UNKNOWN_AGE, field, age_ns, f"must be {_UNKNOWN_AGE} or more")
    return None if age_ns == _UNKNOWN_AGE else now_ns - age_ns


def _bits(values: Iterable[bool]) -> int:
    return sum(1 << place for place, value in enumerate(values) if value)


def _place(kind: type[E], member: E) -> int:
    return list(kind).index(member)


def _member(kind: type[E], place: int) -> E:
    """Raises: WireError."""
    members = list(kind)
    _check(place < len(members), kind.__name__, place, f"must be below {len(members)}")
    return members[place]


def _raw(text: str | None) -> bytes:
    """Cut where a character ends."""
    cut = (text or "").encode(errors="replace")[:_TEXT_BYTES]
    return cut.decode(errors="ignore").encode()


def _text(raw: bytes, field: str) -> str | None:
    """Raises: WireError."""
    text = raw.rstrip(b"\0")
    try:
        return text.decode() or None
    except UnicodeDecodeError as error:
        raise _refusal(field, text[:16], "must be UTF-8") from error


def _check(is_right: bool, field: str, got: object, rule: str) -> None:  # noqa: FBT001 - it is asserted
    """Raises: WireError."""
    if not is_right:
        raise _refusal(field, got, rule)


def _refusal(field: str, got: object, rule: str) -> WireError:
    return WireError(field, got, rule, __name__)
