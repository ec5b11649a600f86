"""Inflate and deflate on a real kernel, measured from outside of it."""

from __future__ import annotations

from tests.support.wait import wait_until

from ballonet.guests.ballooned import BalloonedGuest
from ballonet.guests.linux import LinuxGuest
from ballonet.units import pages_to_bytes

TARGET_PAGES = 200_000
PATTERN = "seq 1 700000 > /tmp/pattern"  # 4.8 MB, every line another
CHECKSUM = "md5sum < /tmp/pattern"
MIB = 1 << 20


def use_and_free_memory(guest: LinuxGuest) -> None:
    mebibytes = guest.meminfo()["MemAvailable"] * 9 // 10 >> 20
    guest.check(f"dd if=/dev/zero of=/tmp/fill bs=1M count={mebibytes} && rm /tmp/fill")


def test_host_memory_falls_with_the_balloon_and_no_byte_of_the_guest_is_lost(
    machine: BalloonedGuest,
) -> None:
    guest, device = machine.guest, machine.device
    guest.check(PATTERN)
    checksum = guest.check(CHECKSUM)
    use_and_free_memory(guest)
    before, blocks_before = device.status(), guest.host_memory_bytes()
    total_before = guest.meminfo()["MemTotal"]
    assert before.held_bytes == blocks_before

    result = machine.resize(TARGET_PAGES, stalled_after_s=20)

    assert result.reached
    snapshot, vmstat = device.status(), guest.vmstat()
    messages = snapshot.counters.inflate_messages - before.counters.inflate_messages
    inflated = snapshot.counters.inflated_pages - before.counters.inflated_pages
    assert inflated == vmstat["balloon_inflate"] - vmstat["balloon_deflate"] == TARGET_PAGES
    assert messages == -(-TARGET_PAGES // 256)
    assert guest.meminfo()["MemTotal"] == total_before - pages_to_bytes(TARGET_PAGES)
    fallen = blocks_before - guest.host_memory_bytes()
    assert fallen > pages_to_bytes(TARGET_PAGES) - 40 * MIB
    assert guest.check(CHECKSUM) == checksum


def test_a_partly_deflated_balloon_gives_the_guest_exactly_that_much_back(
    machine: BalloonedGuest,
) -> None:
    machine.resize(100_000, stalled_after_s=20)
    total = machine.guest.meminfo()["MemTotal"]
    assert machine.resize(60_000, stalled_after_s=20).reached
    assert machine.guest.meminfo()["MemTotal"] == total + pages_to_bytes(40_000)
    assert machine.device.status().actual_pages == 60_000


def test_given_back_memory_can_be_used_again_and_holds_what_is_written(
    machine: BalloonedGuest,
) -> None:
    guest = machine.guest
    machine.resize(TARGET_PAGES, stalled_after_s=20)
    inflated = guest.host_memory_bytes()
    assert machine.resize(0, stalled_after_s=20).reached
    guest.check(f"{PATTERN}; for i in $(seq 105); do cp /tmp/pattern /tmp/copy$i; done")
    different = guest.check("md5sum /tmp/pattern /tmp/copy* | cut -c 1-32 | sort -u")
    assert len(different.split()) == 1
    assert guest.host_memory_bytes() > inflated + 450 * MIB
    guest.check("rm /tmp/copy*")


def test_a_target_changed_midway_is_reached_without_passing_the_first(
    machine: BalloonedGuest,
) -> None:
    machine.resize(0, stalled_after_s=20)
    device = machine.device
    device.set_target(TARGET_PAGES)
    wait_until(lambda: device.status().actual_pages > 2_000, 20, "the balloon grew")
    result = machine.resize(1_000, stalled_after_s=20)
    assert result.reached
    counters = device.status().counters
    assert counters.rejected_pages == counters.refused_chains == counters.broken_rings == 0


def test_the_driver_can_be_unloaded_and_loaded_on_the_same_connection(
    machine: BalloonedGuest,
) -> None:
    guest, device = machine.guest, machine.device
    machine.resize(20_000, stalled_after_s=20)
    total = guest.meminfo()["MemTotal"]

    guest.check("rmmod virtio_balloon")

    assert device.status().actual_pages == 0
    assert guest.meminfo()["MemTotal"] == total + pages_to_bytes(20_000)
    assert device.status().connected
    device.set_target(30_000)  # nobody listens now: told when the driver is back
    guest.check("insmod /virtio_balloon.ko")
    wait_until(lambda: device.status().actual_pages == 30_000, 20, "the new driver inflated")
    samples = device.status().sample
    assert samples is not None
    assert samples.value("memtot") <= guest.settings.memory_bytes


def test_statistics_come_when_asked_for_and_agree_with_the_guest(machine: BalloonedGuest) -> None:
    machine.resize(0, stalled_after_s=20)
    old = machine.device.status().sample
    machine.device.stats.request()
    wait_until(lambda: machine.device.status().sample is not old, 10, "a fresh sample came")
    sample = machine.device.status().sample
    assert sample is not None
    assert sample.value("memtot") == machine.guest.meminfo()["MemTotal"]
    assert len(sample.values) >= 8


def test_a_target_beyond_memory_leaves_the_device_quiet_and_cheap(
    machine: BalloonedGuest,
) -> None:
    guest, device = machine.guest, machine.device
    everything = guest.settings.memory_bytes >> 12
    device.set_target(everything)
    wait_until(lambda: "Out of puff" in guest.kernel_log(), 60, "the guest logs Out of puff")

    before = device.status().counters
    wait_until(
        lambda: device.status().counters.config_reads >= before.config_reads + 5,
        30,
        "the driver goes on asking",
    )
    after = device.status().counters
    assert after.broken_rings == after.refused_chains == after.rejected_pages == 0
    assert device.status().actual_pages < everything
    assert machine.resize(0, stalled_after_s=20).reached
