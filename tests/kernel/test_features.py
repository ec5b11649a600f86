"""Every feature bit on a running kernel; its own counters and logs are the evidence."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.kernel.conftest import start
from tests.support.wait import wait_until

from ballonet.balloon.stats_reading import StatsDiagnosis
from ballonet.device.balloon import BalloonSettings
from ballonet.errors import GuestError
from ballonet.guests.ballooned import BalloonedGuest
from ballonet.guests.hinting import run_hint_round
from ballonet.guests.linux import LinuxGuestSettings
from ballonet.virtio.features import BALLOON_FEATURES, RING_FEATURES, Feature

BALLONET = Path(sys.executable).with_name("ballonet")
MIB = 1 << 20
EVERYTHING = BalloonSettings(RING_FEATURES | BALLOON_FEATURES)
PATTERN = "seq 1 700000 > /tmp/pattern; md5sum < /tmp/pattern"


def boot(*arguments: str, balloon: BalloonSettings = EVERYTHING) -> BalloonedGuest:
    return BalloonedGuest(LinuxGuestSettings(512 * MIB, command_line=arguments), balloon)


@pytest.fixture(scope="module")
def able() -> Iterator[BalloonedGuest]:
    """A guest whose device offers everything, on a kernel that zeroes what it frees."""
    with boot("init_on_free=1") as running:
        yield running


def test_all_six_features_are_observed_by_the_command_for_it() -> None:
    done = subprocess.run(
        [BALLONET, "features", "--json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row["bit"] for row in rows] == [0, 1, 2, 3, 4, 5]
    for row in rows:
        assert row["negotiated"] is True
        assert row["observed"] is True
        assert row["evidence"]
    assert [row["name"] for row in rows][3:] == ["FREE_PAGE_HINT", "PAGE_POISON", "PAGE_REPORTING"]


def test_statistics_are_polled_and_keep_up_with_the_guest(able: BalloonedGuest) -> None:
    guest, device = able.guest, able.device
    device.stats.set_poll_interval(1)
    before = device.status().counters.stats_messages
    wait_until(lambda: device.status().counters.stats_messages >= before + 3, 20, "three polls")
    fresh = device.status()
    assert fresh.stats_diagnosis is StatsDiagnosis.ANSWERED
    assert fresh.stats_age_s is not None
    assert fresh.stats_age_s < 5
    guest.check("dd if=/dev/zero of=/tmp/fill bs=1M count=128")

    def agrees() -> bool:
        # Looked at each time: free memory that is being reported counts as used for a moment.
        return abs(_stat(able, "memfree") - guest.meminfo()["MemFree"]) < 16 * MIB

    before = device.status().counters.stats_messages
    wait_until(lambda: device.status().counters.stats_messages >= before + 2, 20, "a new poll")
    wait_until(agrees, 10, "the poll sees the memory used")
    guest.check("rm /tmp/fill")
    device.stats.set_poll_interval(0)


def test_every_statistic_this_kernel_has_arrives(able: BalloonedGuest) -> None:
    sample = able.device.stats.read(10).sample
    release = tuple(int(part) for part in able.guest.release.split(".")[:2])
    has_hugetlb = "HugePages_Total" in able.guest.meminfo()
    assert len(sample.values) == (14 if release >= (6, 12) else 8) + 2 * has_hugetlb
    assert sample.unknown == {}
    assert sample.value("memtot") == able.guest.meminfo()["MemTotal"]
    assert sample.value("minflt") > 0


def test_a_guest_that_hangs_is_told_from_one_that_never_agreed() -> None:
    with (
        boot(balloon=BalloonSettings(RING_FEATURES)) as machine,
        pytest.raises(GuestError, match="did not accept STATS_VQ"),
    ):
        machine.device.stats.read(0.2)
    with boot() as machine:
        machine.device.stats.read(10)
        machine.guest.check("rmmod virtio_balloon")
        with pytest.raises(GuestError, match="no driver uses the device"):
            machine.device.stats.read(0.2)


def test_a_hint_round_covers_free_memory_and_ends_with_the_guest_whole(
    able: BalloonedGuest,
) -> None:
    guest = able.guest
    checksum = guest.check(PATTERN)
    free = guest.meminfo()["MemFree"]
    result = run_hint_round(able.device)
    assert result.hinted_bytes >= free * 9 // 10
    assert result.free_during_bytes is not None
    assert result.free_during_bytes < free // 5
    assert guest.meminfo()["MemFree"] >= free * 9 // 10
    assert guest.check("md5sum < /tmp/pattern") == checksum
    again = run_hint_round(able.device)
    assert again.cmd_id == result.cmd_id + 1
    assert again.hinted_bytes >= free * 8 // 10


def test_a_target_set_during_a_round_does_not_end_it(able: BalloonedGuest) -> None:
    device = able.device
    rounds = device.status().counters.hint_rounds
    device.hints.begin()
    device.set_target(256)
    wait_until(lambda: device.status().actual_pages == 256, 20, "the balloon of one message")
    wait_until(lambda: device.status().hint_state == "STOP", 20, "the driver's own end")
    assert device.status().counters.hint_rounds == rounds + 1
    device.hints.finish()
    device.set_target(0)
    wait_until(lambda: device.status().actual_pages == 0, 20, "no balloon")


def test_zeroing_freed_memory_makes_the_driver_accept_poison(able: BalloonedGuest) -> None:
    snapshot = able.device.status()
    assert Feature.PAGE_POISON in snapshot.negotiated
    assert snapshot.poison_val == 0


def test_without_poisoning_the_driver_declines_it_and_still_reports() -> None:
    with boot() as machine:
        negotiated = machine.device.status().negotiated
        assert not negotiated & Feature.PAGE_POISON
        assert machine.device.status().poison_val is None
        assert "Free page reporting enabled" in machine.guest.check("dmesg")


def test_freed_memory_goes_back_to_the_host_without_a_command(able: BalloonedGuest) -> None:
    guest, device = able.guest, able.device
    checksum = guest.check(PATTERN)
    inflated = guest.vmstat()["balloon_inflate"]
    guest.check("dd if=/dev/zero of=/tmp/fill bs=1M count=256")
    full = guest.host_memory_bytes()
    guest.check("rm /tmp/fill")
    wait_until(lambda: guest.host_memory_bytes() < full - 200 * MIB, 60, "host memory falls")
    assert guest.vmstat()["balloon_inflate"] == inflated
    assert device.status().counters.reported_bytes >= 200 * MIB
    assert guest.check("md5sum < /tmp/pattern") == checksum


def test_reports_are_answered_while_their_discarding_is_off(able: BalloonedGuest) -> None:
    guest, device = able.guest, able.device
    device.set_report_rate(0)
    guest.check("dd if=/dev/zero of=/tmp/fill bs=1M count=200")
    full, before = guest.host_memory_bytes(), device.status().counters
    guest.check("rm /tmp/fill")
    wait_until(
        lambda: device.status().counters.reported_bytes > before.reported_bytes + 150 * MIB,
        60,
        "the guest reports",
    )
    assert guest.host_memory_bytes() > full - 32 * MIB
    device.set_report_rate(None)
    # What was reported is not reported again before it was used: so use everything.
    guest.check("dd if=/dev/zero of=/tmp/fill bs=1M count=380 && rm /tmp/fill")
    wait_until(lambda: guest.host_memory_bytes() < full - 100 * MIB, 60, "host memory falls")


def test_compaction_moves_balloon_pages_and_the_books_stay_right() -> None:
    with start() as machine:
        guest, device = machine.guest, machine.device
        # The balloon at both ends of memory, a file between: without it, there is room to move to.
        # Which pages those are is the kernel's choice, so it may find nothing in its way.
        for _ in range(5):
            assert machine.resize(60_000, stalled_after_s=20).reached
            guest.check("dd if=/dev/zero of=/tmp/between bs=1M count=400")
            assert machine.resize(130_000, stalled_after_s=20).reached
            guest.check("rm /tmp/between")
            before, vmstat_before = device.status(), guest.vmstat()
            checksum = guest.check(PATTERN)

            guest.check("echo 1 > /proc/sys/vm/compact_memory")

            moved = guest.vmstat()["balloon_migrate"] - vmstat_before["balloon_migrate"]
            if moved:
                break
        assert moved > 0
        after = device.status()
        assert after.counters.inflated_pages - before.counters.inflated_pages == moved
        assert after.counters.deflated_pages - before.counters.deflated_pages == moved
        assert after.counters.inflate_messages - before.counters.inflate_messages == moved
        assert after.counters.config_writes == before.counters.config_writes  # `actual` untouched
        assert after.actual_pages == 130_000
        assert guest.check("md5sum < /tmp/pattern") == checksum
        assert machine.resize(0, stalled_after_s=20).reached


def _stat(machine: BalloonedGuest, name: str) -> int:
    sample = machine.device.status().sample
    return sample.value(name) if sample else -1


def test_the_guest_is_answered_while_it_is_asked_for_everything_at_once() -> None:
    with boot() as machine:
        guest, device = machine.guest, machine.device
        device.stats.set_poll_interval(1)
        target = 0
        while (done := device.status().counters).stats_messages < 6 or done.hint_rounds < 3:
            target = 20_000 - target
            device.hints.begin()
            machine.resize(target, stalled_after_s=5)
            device.hints.stop().result(60)
            guest.check("dd if=/dev/zero of=/tmp/fill bs=1M count=64 && rm /tmp/fill")
        device.hints.finish()
        assert machine.resize(0, stalled_after_s=20).reached
        snapshot = device.status()
        assert snapshot.broken is None
        assert guest.vmstat()["balloon_inflate"] == snapshot.counters.inflated_pages
