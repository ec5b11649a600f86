r"""What a device knows of its guest, as a migration takes it to another device.

    8 bytes  magic "balloon\0"
    u16      version, 1; another one is refused
    u16      0
    u32      bytes of the entries
    entries, each u16 tag, u32 length, and so many bytes; one of an unknown tag is skipped
    u32      CRC-32 of everything before

    tag  bytes   meaning
    1-5  4       the numbers of STATE_FIELDS; poison_val is left out where it is not known
    16   8       features that the driver accepted
    17   any     name of the queue layout
    18   4       what `free_page_hint_cmd_id` reads as: always DONE
    19   any     newest statistics: u64 age in ns, u64 time of day in s, u8 whether they were the
                 ring's first, then u16 tag and u64 value of each; left out where there are none

All little-endian.  Hints of a round before are over with it, so the guest is shown DONE, and gets
the pages it has hinted back at the place it has come to; the next round has the id after the last.
Not here: where in its rings the device stood, which vhost-user carries, and the descriptor that a
blob goes through (vhost_user).
Source: QEMU docs/interop/vhost-user.rst "Migrating back-end state"; what is in it is ours.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from struct import Struct
from typing import Final

from ballonet.balloon.facts import ActualChanged
from ballonet.balloon.stats_reading import AgedSample
from ballonet.device.balloon import Balloon
from ballonet.device.state import STATE_FIELDS, DeviceState, state_of
from ballonet.errors import SessionError, WireError
from ballonet.virtio.features import Feature
from ballonet.virtio.hint_ids import CMD_ID_DONE
from ballonet.virtio.queues import QueueLayout
from ballonet.virtio.stats import STATS, StatsSample

__all__ = ["BLOB_BYTES_MAX", "MovedState", "moved_state_of", "take_over"]

#: A hundred times what is in it today: room for what later versions add.
BLOB_BYTES_MAX: Final = 1 << 16

_MAGIC: Final = b"balloon\0"
_VERSION: Final = 1
_HEADER: Final = Struct("<8sHHI")
_ENTRY: Final = Struct("<HI")
_U32: Final = Struct("<I")
_U64: Final = Struct("<Q")
_FEATURES, _LAYOUT, _HINT, _STATS = 16, 17, 18, 19
_STATS_HEAD: Final = Struct("<QQB")
_STAT: Final = Struct("<HQ")
#: A driver may send as many unknown tags as fit its buffer; more than these say nothing to anybody.
_STATS_MAX: Final = 256
#: Of times, in any unit: what programs that are told of them can surely hold.
_TIME_MAX: Final = 1 << 62
_SOURCE: Final = "device/moved_state.py"


@dataclass(frozen=True, slots=True)
class MovedState:
    """One device's knowledge of its guest."""

    kept: DeviceState
    features: int  #: that the driver accepted
    layout: QueueLayout
    stats: AgedSample | None

    def pack(self) -> bytes:
        """As a blob; `parse` is its inverse."""
        body = b"".join(_entry(tag, data) for tag, data in self._entries().items())
        head = _HEADER.pack(_MAGIC, _VERSION, 0, len(body)) + body
        return head + _U32.pack(zlib.crc32(head))

    @classmethod
    def parse(cls, blob: bytes) -> MovedState:
        """Read a blob. Raises: WireError."""
        entries = _checked_entries(blob)
        values: dict[str, int] = {}
        for row in STATE_FIELDS:
            if row.is_optional and row.tag not in entries:
                continue
            values[row.name] = _number(entries, row.tag, row.name, _U32)
            if not row.least <= values[row.name] <= row.most:
                raise _wrong(row.name, values[row.name], f"must be {row.least} to {row.most}")
        hint = _number(entries, _HINT, "hint state", _U32)
        if hint != CMD_ID_DONE:
            raise _wrong("hint state", hint, "must be DONE")
        return cls(
            DeviceState(**values),
            _number(entries, _FEATURES, "features", _U64),
            _parse_layout(entries.get(_LAYOUT, b"")),
            None if _STATS not in entries else _parse_stats(entries[_STATS]),
        )

    def _entries(self) -> dict[int, bytes]:
        kept = {row.tag: getattr(self.kept, row.name) for row in STATE_FIELDS}
        entries = {tag: _U32.pack(value) for tag, value in kept.items() if value is not None}
        entries[_FEATURES] = _U64.pack(self.features)
        entries[_LAYOUT] = self.layout.value.encode()
        entries[_HINT] = _U32.pack(CMD_ID_DONE)
        if self.stats is not None:
            entries[_STATS] = _pack_stats(self.stats)
        return entries


def moved_state_of(balloon: Balloon) -> MovedState:
    """What another device needs to go on with this guest, whose rings must stand still."""
    return MovedState(
        state_of(balloon),
        int(balloon.negotiated),
        balloon.settings.layout,
        balloon.statistics.aged_sample,
    )


def take_over(balloon: Balloon, moved: MovedState) -> None:
    """Go on with a guest that another device had, before a ring runs.

    With a polling interval the driver is asked for statistics when its rings have run so long.
    Raises: SessionError, if this device cannot go on with such a guest; nothing has changed then.
    """
    missing = Feature(moved.features & ~int(balloon.settings.offered))
    if missing:
        raise SessionError("device state", f"the guest uses {missing!r}, not offered here")
    if moved.layout is not balloon.settings.layout:
        raise SessionError("device state", f"the guest's queue layout is {moved.layout.value}")
    kept = moved.kept
    balloon.config.num_pages = kept.target_pages
    balloon.config.take_over_actual(kept.actual_pages)
    if kept.target_pages != kept.actual_pages:  # the change goes on
        balloon.request.ask(kept.target_pages, kept.actual_pages)
    balloon.config.poison.take_over(kept.poison_val)
    balloon.hint_round.go_on_after(kept.cmd_id)
    balloon.statistics.take_over(moved.stats, kept.poll_interval_s)
    balloon.observers.tell(ActualChanged(kept.actual_pages))


def _checked_entries(blob: bytes) -> Mapping[int, bytes]:
    """Entries by tag, of a blob that is whole. Raises: WireError."""
    if not _HEADER.size + _U32.size <= len(blob) <= BLOB_BYTES_MAX:
        raise _wrong("length", len(blob), f"must be at most {BLOB_BYTES_MAX}, and hold a header")
    magic, version, _, length = _HEADER.unpack_from(blob)
    if magic != _MAGIC:
        raise _wrong("magic", magic, f"must be {_MAGIC!r}")
    if version != _VERSION:
        raise _wrong("version", version, f"must be {_VERSION}")
    end = len(blob) - _U32.size
    if _HEADER.size + length != end:
        raise _wrong("length of entries", length, f"must be {end - _HEADER.size}")
    if _U32.unpack_from(blob, end)[0] != zlib.crc32(blob[:end]):
        raise _wrong("checksum", hex(_U32.unpack_from(blob, end)[0]), "does not match")
    return _split_entries(blob[_HEADER.size : end])


def _split_entries(body: bytes) -> Mapping[int, bytes]:
    """Raises: WireError, if an entry is cut, or stands there twice."""
    entries: dict[int, bytes] = {}
    at = 0
    while at < len(body):
        if at + _ENTRY.size > len(body):
            raise _wrong("entry", f"{len(body) - at} bytes", "must have a tag and a length")
        tag, length = _ENTRY.unpack_from(body, at)
        at += _ENTRY.size
        if length > len(body) - at:
            raise _wrong(f"entry {tag}", f"{length} bytes", f"must be at most {len(body) - at}")
        if tag in entries:
            raise _wrong(f"entry {tag}", "a second one", "must stand there once")
        entries[tag] = body[at : at + length]
        at += length
    return entries


def _entry(tag: int, data: bytes) -> bytes:
    return _ENTRY.pack(tag, len(data)) + data


def _number(entries: Mapping[int, bytes], tag: int, name: str, layout: Struct) -> int:
    """Raises: WireError, if it is missing, or of another size."""
    data = entries.get(tag)
    if data is None or len(data) != layout.size:
        got = "nothing" if data is None else f"{len(data)} bytes"
        raise _wrong(name, got, f"must be {layout.size} bytes")
    return int(layout.unpack(data)[0])


def _parse_layout(data: bytes) -> QueueLayout:
    for layout in QueueLayout:
        if layout.value.encode() == data:
            return layout
    raise _wrong("queue layout", data[:16], "must be one of ours")


def _pack_stats(aged: AgedSample) -> bytes:
    known = {row.tag: aged.sample.values.get(row.name) for row in STATS}
    values = {tag: value for tag, value in known.items() if value is not None}
    values |= aged.sample.unknown
    head = _STATS_HEAD.pack(aged.age_ns, aged.received_wall_s, aged.is_first)
    return head + b"".join(_STAT.pack(*one) for one in list(values.items())[:_STATS_MAX])


def _parse_stats(data: bytes) -> AgedSample:
    """Raises: WireError."""
    count, rest = divmod(len(data) - _STATS_HEAD.size, _STAT.size)
    if rest or not 0 <= count <= _STATS_MAX:
        raise _wrong("statistics", f"{len(data)} bytes", "must be a head and whole values")
    age_ns, wall_s, is_first = _STATS_HEAD.unpack_from(data)
    if max(age_ns, wall_s) > _TIME_MAX or is_first > 1:
        raise _wrong("statistics", f"times {age_ns}, {wall_s}, first {is_first}", "cannot be")
    sample = StatsSample()
    for tag, value in _STAT.iter_unpack(data[_STATS_HEAD.size :]):
        if tag < len(STATS):
            sample.values[STATS[tag].name] = value
        else:
            sample.unknown[tag] = value
    return AgedSample(sample, age_ns, wall_s, bool(is_first))


def _wrong(field: str, got: object, rule: str) -> WireError:
    return WireError(f"device state: {field}", got, rule, _SOURCE)
