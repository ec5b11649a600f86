"""Where the device's half of a ring has its fences: the driver looks, or acts, exactly at them.

An interpreter and x86 hide most reordering, so a missing fence shows in no run.  What can be shown
is that at each fence all that must be before it has happened, and nothing that must be after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from tests.property.ring_under_test import AnyDriverRing, RingFormat, serve
from tests.support.driver_ring import Buffer, DriverRing
from tests.support.guest_memory import GuestRam, RamRegion

from ballonet.virtio.ring.chain import DeviceRing

RING, DATA, SIZE = 0x1000, 0x4000, 4
LENGTH_AT = 8  # of a descriptor, in both formats

each_format = pytest.mark.parametrize("ring_format", list(RingFormat), ids=repr)
each_wish = pytest.mark.parametrize("event_idx", [False, True], ids=["flags", "event index"])


@dataclass
class Fenced:
    """Both halves of one ring; `at_fence` is called at each fence of the device's."""

    ram: GuestRam
    driver: AnyDriverRing
    device: DeviceRing = field(init=False)
    at_fence: Callable[[], object] = lambda: None

    def fence(self) -> None:
        """The device's."""
        self.at_fence()

    def used(self) -> tuple[bytes, bool]:
        """Length and id of the first used entry as they stand in memory, and if it is shown."""
        place = self.driver.layout
        if isinstance(self.driver, DriverRing):
            return self.ram.read(place.used + 4, 8), self.driver.used_idx != 0
        flags = int.from_bytes(self.ram.read(place.desc + 14, 2), "little")
        return self.ram.read(place.desc + LENGTH_AT, 6), bool(flags & 1 << 15)

    def offer(self) -> int:
        """Make a chain of one buffer available."""
        head = self.driver.add([Buffer(DATA, 4)])
        self.driver.publish()
        return head


@contextmanager
def ring(ring_format: RingFormat, *, event_idx: bool = False) -> Iterator[Fenced]:
    with GuestRam([RamRegion(0, 0x8000, 0)]) as ram:
        fenced = Fenced(ram, ring_format.drive(ram, RING, SIZE, event_idx=event_idx))
        fenced.device = serve(fenced.driver, ram, fenced.fence)
        yield fenced
        fenced.device.release()
        fenced.driver.close()


def once(action: Callable[[], object], *, at: int = 1) -> Callable[[], None]:
    """Act at the fence of this number only."""
    count = 0

    def fence() -> None:
        nonlocal count
        count += 1
        if count == at:
            action()

    return fence


@each_format
def test_what_is_used_stands_in_memory_before_it_is_shown(ring_format: RingFormat) -> None:
    with ring(ring_format) as fenced:
        head = fenced.offer()
        chain = fenced.device.pop()
        assert chain is not None
        fenced.device.push(chain.head, 7)
        seen: list[tuple[bytes, bool]] = []
        fenced.at_fence = lambda: seen.append(fenced.used())
        fenced.device.publish()
        entry = seen[0][0]
        assert seen == [(entry, False), (entry, True)]
        (used,) = fenced.driver.collect()
        assert (used.head, used.length) == (head, 7)


@each_format
def test_a_batch_is_shown_as_a_whole(ring_format: RingFormat) -> None:
    with ring(ring_format) as fenced:
        heads = [fenced.offer(), fenced.offer()]
        for head in heads:
            assert fenced.device.pop()
            fenced.device.push(head, 0)
        assert fenced.driver.collect() == []
        fenced.device.publish()
        assert [used.head for used in fenced.driver.collect()] == heads


@each_wish
@each_format
def test_whether_the_driver_wants_a_call_is_read_after_the_index_is_shown(
    ring_format: RingFormat, *, event_idx: bool
) -> None:
    with ring(ring_format, event_idx=event_idx) as fenced:
        for wanted in (True, False, True):
            fenced.offer()
            chain = fenced.device.pop()
            assert chain is not None
            fenced.device.push(chain.head, 0)
            fenced.driver.want_calls(not wanted)
            fenced.at_fence = once(lambda wanted=wanted: fenced.driver.want_calls(wanted), at=2)  # type: ignore[misc]
            assert fenced.device.publish() == wanted
            fenced.at_fence = lambda: None
            fenced.driver.collect()


@each_wish
@each_format
def test_the_last_look_is_after_the_wish_for_kicks(
    ring_format: RingFormat, *, event_idx: bool
) -> None:
    with ring(ring_format, event_idx=event_idx) as fenced:
        fenced.device.disable_kicks()
        assert fenced.device.pop() is None
        kicks: list[bool] = []

        def add() -> None:
            fenced.driver.add([Buffer(DATA, 4)])
            kicks.append(fenced.driver.publish())

        fenced.at_fence = once(add)
        assert fenced.device.enable_kicks()
        assert kicks == [True]  # the wish stood there already
        fenced.at_fence = lambda: None
        assert fenced.device.pop()


@each_format
def test_a_chain_is_read_after_what_says_that_it_is_there(ring_format: RingFormat) -> None:
    with ring(ring_format) as fenced:
        fenced.offer()
        length_at = fenced.driver.layout.desc + LENGTH_AT
        fenced.at_fence = once(lambda: fenced.ram.write(length_at, (8).to_bytes(4, "little")))
        chain = fenced.device.pop()
        assert chain is not None
        assert chain.readable == ((DATA, 8),)
