"""A driver and a device on two threads, both suppressing notifications: nobody sleeps for ever.

Each side works while there is work, then asks to be woken, looks once more and sleeps.  Whoever
adds something must wake a sleeper that asked for it; a sleep that lasts is a notification lost.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from threading import Event, Thread

import pytest
from tests.property.ring_under_test import AnyDriverRing, RingFormat, serve
from tests.support.driver_ring import Buffer
from tests.support.guest_memory import GuestRam, RamRegion

from ballonet.memory.fence import full_fence
from ballonet.virtio.ring.chain import DeviceRing

CHAINS = 6_000
LOST_AFTER_S = 2.0
SWITCH_INTERVAL_S = 1e-6  # between threads: many switches, so that every gap is met
RING_GPA, DATA_GPA = 0x1000, 0x4000


@dataclass
class Race:
    """Both halves of a ring, the two ways to wake, and what went wrong."""

    driver: AnyDriverRing
    device: DeviceRing
    kick: Event = field(default_factory=Event)
    call: Event = field(default_factory=Event)
    sleeps: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)

    def sleep(self, who: str, until: Event) -> bool:
        """Wait to be woken; False if nobody did, or the other side has failed."""
        self.sleeps.add(who)
        if not until.wait(LOST_AFTER_S):
            self.problems.append(f"the {who} was never woken, at {self.device.base:#x}")
        until.clear()
        return not self.problems

    def run_device(self) -> None:
        """Use every chain, in batches of one to three."""
        served, batches = 0, cycle((2, 1, 3, 1))
        while served < CHAINS:
            self.device.disable_kicks()
            batch, limit = 0, next(batches)
            while (chain := self.device.pop()) is not None:
                self.device.push(chain.head, 0)
                served, batch = served + 1, batch + 1
                if batch == limit:
                    batch, limit = 0, next(batches)
                    self._publish()
            if batch:
                self._publish()
            if self.device.enable_kicks() or served == CHAINS:
                continue
            if not self.sleep("device", self.kick):
                return

    def run_driver(self) -> None:
        """Offer chains of one to three descriptors until all were used, in order."""
        added, used, lengths, expected = 0, 0, cycle((1, 1, 3, 2, 1)), list[int]()
        while used < CHAINS:
            self.driver.want_calls(False)
            while added < CHAINS and self.driver.free_descriptors >= 3:
                expected.append(self.driver.add([Buffer(DATA_GPA, 4)] * next(lengths)))
                added += 1
                if self.driver.publish():
                    self.kick.set()
            self.driver.want_calls(True)
            found = self.driver.collect()
            if not found:
                if not self.sleep("driver", self.call):
                    return
                found = self.driver.collect()
            used += len(found)
            if [one.head for one in found] != [expected.pop(0) for _ in found]:
                self.problems.append(f"{found} were used out of order")
                return

    def _publish(self) -> None:
        if self.device.publish():
            self.call.set()


@contextmanager
def switching_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


@pytest.mark.parametrize("size", [4, 16])
@pytest.mark.parametrize("event_idx", [False, True], ids=["flags", "event index"])
@pytest.mark.parametrize("ring_format", list(RingFormat), ids=repr)
def test_no_notification_is_lost_between_two_threads(
    ring_format: RingFormat, size: int, *, event_idx: bool
) -> None:
    with GuestRam([RamRegion(0, 0x8000, 0)]) as ram:
        driver = ring_format.drive(ram, RING_GPA, size, event_idx=event_idx)
        race = Race(driver, serve(driver, ram, full_fence))
        threads = [
            Thread(target=race.run_device, daemon=True),
            Thread(target=race.run_driver, daemon=True),
        ]
        with switching_often():
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
        race.device.release()
        driver.close()
    assert race.problems == []
    assert not any(thread.is_alive() for thread in threads)
    assert race.sleeps  # else nothing was put to the test
