"""A real kernel's packed rings: Linux negotiates them, and everything works as on split ones."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.kernel.conftest import start
from tests.support.wait import wait_until

from ballonet.guests.ballooned import BalloonedGuest
from ballonet.virtio.features import RING_FEATURES, Feature

TARGET_PAGES = 100_000
OFFERED = Feature.MUST_TELL_HOST | Feature.STATS_VQ | Feature.RING_PACKED


@pytest.fixture(scope="module")
def packed() -> Iterator[BalloonedGuest]:
    with start(OFFERED) as running:
        yield running


def test_linux_takes_packed_rings(packed: BalloonedGuest) -> None:
    assert packed.device.status().negotiated == RING_FEATURES | OFFERED


def test_the_balloon_grows_and_shrinks_page_by_page_as_asked(packed: BalloonedGuest) -> None:
    guest, device = packed.guest, packed.device
    total = guest.meminfo()["MemTotal"]
    for _ in range(2):
        before = guest.vmstat()
        assert packed.resize(TARGET_PAGES, stalled_after_s=20).reached
        grown = guest.vmstat()
        assert grown["balloon_inflate"] - before["balloon_inflate"] == TARGET_PAGES
        assert packed.resize(0, stalled_after_s=20).reached
        shrunk = guest.vmstat()
        assert shrunk["balloon_deflate"] - grown["balloon_deflate"] == TARGET_PAGES
    assert guest.meminfo()["MemTotal"] == total
    counters = device.status().counters
    assert counters.inflated_pages == counters.deflated_pages == 2 * TARGET_PAGES
    assert counters.inflate_messages == 2 * -(-TARGET_PAGES // 256)  # about six laps of the ring
    assert counters.broken_rings == counters.refused_chains == counters.rejected_pages == 0


def test_statistics_are_answered_at_each_request(packed: BalloonedGuest) -> None:
    for _ in range(5):
        old = packed.device.status().sample
        packed.device.stats.request()
        wait_until(lambda old=old: packed.device.status().sample is not old, 10, "a sample came")  # type: ignore[misc]
    sample = packed.device.status().sample
    assert sample is not None
    assert sample.value("memtot") == packed.guest.meminfo()["MemTotal"]


def test_the_driver_can_be_unloaded_and_loaded_on_the_same_connection(
    packed: BalloonedGuest,
) -> None:
    guest, device = packed.guest, packed.device
    packed.resize(20_000, stalled_after_s=20)
    for target_pages in (30_000, 10_000):
        guest.check("rmmod virtio_balloon")
        assert device.status().actual_pages == 0
        device.set_target(target_pages)
        guest.check("insmod /virtio_balloon.ko")
        wait_until(
            lambda wanted=target_pages: device.status().actual_pages == wanted,  # type: ignore[misc]
            20,
            "the new driver inflated",
        )
    assert Feature.RING_PACKED in device.status().negotiated
    assert device.status().counters.broken_rings == 0
