"""What a device knows of its guest, out of one device and into another."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

import pytest
from tests.support.clock import FakeClock

from ballonet.balloon.stats_reading import AgedSample, StatsReading
from ballonet.device.balloon import Balloon, BalloonSettings
from ballonet.device.moved_state import BLOB_BYTES_MAX, MovedState, moved_state_of, take_over
from ballonet.device.state import DeviceState
from ballonet.errors import SessionError, WireError
from ballonet.virtio.features import BALLOON_FEATURES, DEFAULT_OFFER, Feature
from ballonet.virtio.hint_ids import CMD_ID_DONE, CMD_ID_MIN
from ballonet.virtio.queues import QueueLayout
from ballonet.virtio.stats import StatsSample

OFFER = DEFAULT_OFFER | BALLOON_FEATURES
SAMPLE = StatsSample({"memfree": 1 << 30, "swap_in": 3}, {999: 7})
WALL_S = 1_700_000_000
WHOLE = MovedState(
    DeviceState(8192, 4096, 0xAAAA_AAAA, CMD_ID_MIN + 9, 5),
    int(Feature.VERSION_1 | Feature.STATS_VQ | Feature.PAGE_POISON),
    QueueLayout.DENSE,
    AgedSample(SAMPLE, 1_500_000_000, WALL_S, is_first=False),
)

#: A blob of the first version, to be read for ever: header, entries 1 to 5, 16 to 19, checksum.
GOLDEN = bytes.fromhex(
    "62616c6c6f6f6e0001000000"  # magic, version, 0
    "8a000000"
    "01000400000000200000"
    "02000400000000100000"
    "030004000000aaaaaaaa"
    "04000400000009000080"
    "05000400000005000000"
    "1000080000001200000001000000"
    "11000500000064656e7365"
    "12000400000001000000"
    "13002f000000002f68590000000000f1536500000000000000030000000000000004000000004000"
    "000000e7030700000000000000"
    "4a5b8269"  # checksum
)


def make(clock: FakeClock | None = None, **settings: object) -> Balloon:
    return Balloon(BalloonSettings(OFFER, **settings), clock or FakeClock())  # type: ignore[arg-type]


def in_use(clock: FakeClock) -> Balloon:
    """A device whose driver has said everything that one can say."""
    balloon = make(clock)
    balloon.negotiate(int(OFFER))
    balloon.set_target(8192)
    balloon.write_config(4, (4096).to_bytes(4, "little"))
    balloon.write_config(12, b"\xaa" * 4)
    balloon.hint_round.begin(60.0)
    balloon.statistics.set_poll_interval(5)
    balloon.statistics.reading = StatsReading(SAMPLE, clock.now_ns(), WALL_S, is_first=True)
    clock.advance(3)
    return balloon


def with_checksum(blob: bytes) -> bytes:
    return blob[:-4] + struct.pack("<I", zlib.crc32(blob[:-4]))


def with_body(change: Callable[[bytes], bytes]) -> bytes:
    """A whole blob with other entries."""
    body = change(WHOLE.pack()[16:-4])
    head = WHOLE.pack()[:12] + struct.pack("<I", len(body)) + body
    return with_checksum(head + bytes(4))


def without(tag: int) -> bytes:
    """A whole blob without one entry."""

    def cut(body: bytes) -> bytes:
        rest, at = b"", 0
        while at < len(body):
            number, length = struct.unpack_from("<HI", body, at)
            if number != tag:
                rest += body[at : at + 6 + length]
            at += 6 + length
        return rest

    return with_body(cut)


def instead(tag: int, data: bytes) -> bytes:
    """A whole blob with another entry of this tag, at the end."""
    rest = without(tag)[16:-4] + struct.pack("<HI", tag, len(data)) + data
    return with_body(lambda _: rest)


def test_a_state_is_read_as_it_was_written() -> None:
    bare = MovedState(DeviceState(), 0, QueueLayout.FIXED, None)
    for state in (WHOLE, bare):
        assert MovedState.parse(state.pack()) == state


def test_what_is_taken_over_is_what_is_told_again() -> None:
    clock = FakeClock()
    source = in_use(clock)
    blob = moved_state_of(source).pack()
    target = make(clock)
    target.negotiate(int(OFFER))
    take_over(target, MovedState.parse(blob))
    assert moved_state_of(target).pack() == blob
    assert (target.target_pages, target.actual_pages) == (8192, 4096)
    assert target.config.poison.value == 0xAAAA_AAAA
    assert target.statistics.reading == source.statistics.reading


def test_statistics_keep_their_age_where_the_clock_is_another() -> None:
    clock, other = FakeClock(), FakeClock()
    blob = moved_state_of(in_use(clock)).pack()
    other.advance(12345)
    target = make(other)
    take_over(target, MovedState.parse(blob))
    reading = target.statistics.reading
    assert reading is not None
    assert other.now_ns() - reading.received_ns == 3_000_000_000


def test_the_guest_is_shown_done_and_the_next_round_has_an_id_above() -> None:
    source = in_use(FakeClock())
    assert source.hint_round.shown_cmd_id == CMD_ID_MIN + 1
    target = make()
    take_over(target, moved_state_of(source))
    assert target.read_config(8, 4) == CMD_ID_DONE.to_bytes(4, "little")
    target.hint_round.begin(60.0)
    assert target.hint_round.shown_cmd_id == CMD_ID_MIN + 2
    assert source.hint_round.shown_cmd_id == CMD_ID_MIN + 1, "telling changes nothing"


def test_a_poison_that_was_not_known_stays_so_however_often_zero_is_written_back() -> None:
    target = make()
    target.negotiate(int(OFFER))
    take_over(target, moved_state_of(make()))
    assert not target.config.poison.allows_discard()
    target.write_config(0, bytes(16))  # all of the space, as a front-end writes it back
    assert not target.config.poison.allows_discard()
    target.write_config(12, bytes(4))
    assert target.config.poison.allows_discard()


def test_a_golden_state_is_read() -> None:
    assert MovedState.parse(GOLDEN) == WHOLE
    assert WHOLE.pack() == GOLDEN


def test_entries_of_later_versions_are_skipped() -> None:
    later = with_body(lambda body: struct.pack("<HI", 77, 3) + b"abc" + body)
    assert MovedState.parse(later) == WHOLE


BAD = {
    "nothing": b"",
    "a header alone": WHOLE.pack()[:16],
    "another magic": with_checksum(b"BALLOON\0" + WHOLE.pack()[8:]),
    "another version": with_checksum(WHOLE.pack()[:8] + b"\2\0" + WHOLE.pack()[10:]),
    "one bit changed": bytes([*WHOLE.pack()[:40], WHOLE.pack()[40] ^ 1, *WHOLE.pack()[41:]]),
    "cut short": WHOLE.pack()[:-1],
    "one byte more": WHOLE.pack() + b"\0",
    "too long": WHOLE.pack() + bytes(BLOB_BYTES_MAX),
    "a length of 4 GiB": with_checksum(WHOLE.pack()[:12] + b"\xff" * 4 + WHOLE.pack()[16:]),
    "an entry that is cut": with_body(lambda body: body + b"\1\0\0"),
    "an entry of 4 GiB": with_body(lambda body: body + struct.pack("<HI", 77, 0xFFFF_FFFF)),
    "an entry twice": with_body(lambda body: body + body[:10]),
    "a target of 8 bytes": instead(1, bytes(8)),
    "no target": without(1),
    "no features": without(16),
    "no layout": without(17),
    "no hint state": without(18),
    "no interval": without(5),
    "an id that is none": instead(4, struct.pack("<I", 1)),
    "a layout of somebody else": instead(17, b"sparse"),
    "a round that runs": instead(18, struct.pack("<I", CMD_ID_MIN + 1)),
    "statistics of half a value": instead(19, bytes(17 + 5)),
    "statistics without a head": instead(19, bytes(16)),
    "statistics without end": instead(19, bytes(17 + 10 * 257)),
    "statistics of no time": instead(19, struct.pack("<QQB", 1 << 63, 0, 0)),
    "statistics that are first twice": instead(19, struct.pack("<QQB", 0, 0, 2)),
}


@pytest.mark.parametrize("blob", list(BAD.values()), ids=list(BAD))
def test_a_state_that_cannot_be_is_refused(blob: bytes) -> None:
    with pytest.raises(WireError):
        MovedState.parse(blob)


def test_a_guest_whose_features_or_queues_are_others_is_refused_and_nothing_changes() -> None:
    state = moved_state_of(in_use(FakeClock()))
    lacking = Balloon(BalloonSettings(OFFER & ~Feature.FREE_PAGE_HINT), FakeClock())
    fixed = make(layout=QueueLayout.FIXED)
    for target in (lacking, fixed):
        before = moved_state_of(target)
        with pytest.raises(SessionError):
            take_over(target, state)
        assert moved_state_of(target) == before


def test_a_driver_s_statistics_make_no_endless_state() -> None:
    clock = FakeClock()
    balloon = make(clock)
    many = StatsSample({}, dict.fromkeys(range(100, 6000), 1))
    balloon.statistics.reading = StatsReading(many, clock.now_ns(), WALL_S, is_first=False)
    assert len(moved_state_of(balloon).pack()) < BLOB_BYTES_MAX
    assert MovedState.parse(moved_state_of(balloon).pack()).stats is not None
