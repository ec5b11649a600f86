"""What a worker and its supervisor tell each other."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet.balloon.counters import COUNTERS, Counters
from ballonet.balloon.inhibition import InhibitReason
from ballonet.balloon.request import RequestTimes
from ballonet.balloon.stats_reading import StatsDiagnosis, StatsReading
from ballonet.control.status import Status
from ballonet.device.hint_round import HintState
from ballonet.errors import WireError
from ballonet.host.worker_status import (
    ASK_STATUS,
    STATUS_BYTES,
    PollChange,
    pack_status,
    parse_status,
)
from ballonet.virtio.features import Feature, feature_names
from ballonet.virtio.stats import STATS, StatsSample

NOW_NS = 1 << 50
u32, u64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
moments = st.integers(0, NOW_NS)
texts = st.none() | st.text(
    st.characters(blacklist_categories=["Cc", "Cs"]), min_size=1, max_size=60
)


@st.composite
def readings(draw: st.DrawFn) -> StatsReading:
    values = draw(st.dictionaries(st.sampled_from([row.name for row in STATS]), u64))
    wall_s = draw(st.integers(0, 2**62))
    return StatsReading(StatsSample(values), draw(moments), wall_s, draw(st.booleans()))


@st.composite
def statuses(draw: st.DrawFn) -> Status:
    features = draw(st.sets(st.sampled_from(list(Feature))))
    negotiated = Feature(sum(features))
    connected = draw(st.booleans())
    reasons = draw(st.sets(st.sampled_from(InhibitReason)))
    steps = draw(st.tuples(*[st.none() | moments] * 5))
    return Status(
        now_ns=NOW_NS,
        protocol="virtio",
        connected=connected,
        running=draw(st.booleans()),
        paused=draw(st.booleans()),
        features=tuple(feature_names(negotiated)),
        negotiated=negotiated,
        guest_bytes=draw(u64) if connected else 0,
        held_bytes=draw(u64) if connected else 0,
        target_pages=draw(u32),
        actual_pages=draw(u32),
        request=RequestTimes(draw(u64), *steps),
        stats_diagnosis=draw(st.sampled_from(StatsDiagnosis)),
        stats=draw(st.none() | readings()),
        poll_interval_s=draw(u32),
        poison_val=draw(st.none() | u32),
        hint_state=draw(st.sampled_from(HintState)).name,
        waiting_bytes=draw(u64),
        inhibited=tuple(reason for reason in InhibitReason if reason in reasons),
        report_bytes_per_s=None,
        broken=draw(texts),
        problem=draw(texts),
        counters=Counters(*draw(st.tuples(*[u64] * len(COUNTERS)))),
    )


@given(statuses())
def test_a_status_is_read_as_it_was_written(status: Status) -> None:
    assert parse_status(pack_status(status), NOW_NS) == status


@given(statuses(), st.integers(0, 2**40))
def test_every_age_is_that_of_when_it_was_told(status: Status, later_ns: int) -> None:
    read = parse_status(pack_status(status), NOW_NS + later_ns)
    assert read.now_ns == NOW_NS + later_ns
    assert (read.stats_age_s, read.request_ages) == (status.stats_age_s, status.request_ages)
    assert read.stage is status.stage


@given(statuses(), st.data())
def test_of_any_message_a_status_is_read_or_it_is_refused(
    status: Status, data: st.DataObject
) -> None:
    raw = bytearray(pack_status(status))
    for at in data.draw(st.lists(st.integers(0, STATUS_BYTES - 1), max_size=4)):
        raw[at] = data.draw(st.integers(0, 255))
    try:
        read = parse_status(bytes(raw), NOW_NS)
    except WireError:
        return
    assert pack_status(read) == raw


@given(st.binary(min_size=STATUS_BYTES, max_size=STATUS_BYTES))
def test_nonsense_of_the_right_length_is_refused_or_read(raw: bytes) -> None:
    try:
        read = parse_status(raw, NOW_NS)
    except WireError:
        return
    assert pack_status(read) == raw


@pytest.mark.parametrize(
    "raw", [b"", bytes(STATUS_BYTES - 1), bytes(STATUS_BYTES + 1), b"\xff" * STATUS_BYTES]
)
def test_nonsense_is_refused(raw: bytes) -> None:
    with pytest.raises(WireError):
        parse_status(raw, NOW_NS)


def status_with(**values: object) -> Status:
    """One of a guest that is there."""
    status = parse_status(bytes(STATUS_BYTES), NOW_NS)
    return replace(status, connected=True, **values)  # type: ignore[arg-type]


def test_what_was_not_sent_is_unknown_and_what_was_sent_as_0_is_0() -> None:
    sample = StatsSample({"memfree": 0, "memtot": 5})
    status = status_with(stats=StatsReading(sample, NOW_NS - 1, 100, is_first=False))
    read = parse_status(pack_status(status), NOW_NS)
    assert read.sample == sample


def test_statistics_are_as_old_as_they_were_when_they_were_told() -> None:
    reading = StatsReading(StatsSample({"memfree": 5}), NOW_NS - 3_000_000_000, 100, is_first=False)
    read = parse_status(pack_status(status_with(stats=reading)), NOW_NS + 70)
    assert read.stats_age_s == 3.0


def test_what_the_host_holds_is_told_beside_what_the_guest_has() -> None:
    status = status_with(guest_bytes=1 << 30, held_bytes=1 << 20)
    read = parse_status(pack_status(status), NOW_NS)
    assert (read.guest_bytes, read.held_bytes) == (1 << 30, 1 << 20)


def test_a_text_that_is_too_long_is_cut_where_a_character_ends() -> None:
    read = parse_status(pack_status(status_with(problem="é" * 1000, broken=None)), NOW_NS)
    assert read.problem is not None
    assert set(read.problem) == {"é"}
    assert read.broken is None


def test_a_change_of_polling_is_read_as_it_was_written() -> None:
    change = PollChange(2**32 - 1, 7)
    assert PollChange.parse(change.pack()) == change
    assert PollChange.parse(ASK_STATUS) is None
