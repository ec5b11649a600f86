"""Chains of more descriptors than any driver makes: returned unread, and the ring goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.property.ring_under_test import AnyDriverRing, RingFormat, serve
from tests.support.driver_ring import Buffer
from tests.support.guest_memory import GuestRam, RamRegion

from ballonet.virtio.ring.chain import DeviceRing
from ballonet.virtio.ring.descriptors import CHAIN_MAX

SIZE = 4096
RING, DATA, TABLE = 0x1000, 0x80000, 0x90000
each_format = pytest.mark.parametrize("ring_format", list(RingFormat), ids=repr)


@contextmanager
def ring(ring_format: RingFormat) -> Iterator[tuple[AnyDriverRing, DeviceRing]]:
    with GuestRam([RamRegion(0, 0x100000, 0)]) as ram:
        driver = ring_format.drive(ram, RING, SIZE, event_idx=False)
        device = serve(driver, ram, lambda: None)
        yield driver, device
        device.release()
        driver.close()


@each_format
@pytest.mark.parametrize("count", [CHAIN_MAX, CHAIN_MAX + 1, 3000])
@pytest.mark.parametrize("table", [None, TABLE], ids=["in the ring", "in a table"])
def test_more_than_the_limit_is_cut_and_the_chains_around_it_are_not(
    ring_format: RingFormat, count: int, table: int | None
) -> None:
    with ring(ring_format) as (driver, device):
        heads = [
            driver.add([Buffer(DATA, 4)]),
            driver.add([Buffer(DATA, 4)] * count, indirect_at=table),
            driver.add([Buffer(DATA, 8)]),
        ]
        driver.publish()
        chains = list(iter(device.pop, None))
        assert [chain.head for chain in chains] == heads
        assert [chain.is_cut for chain in chains] == [False, count > CHAIN_MAX, False]
        assert [len(chain.readable) for chain in chains] == [
            1,
            count if count <= CHAIN_MAX else 0,
            1,
        ]
        for head in heads:
            device.push(head, 0)
        device.publish()
        assert [used.head for used in driver.collect()] == heads
