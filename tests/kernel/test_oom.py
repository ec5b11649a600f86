"""Memory runs out in the guest, with and without DEFLATE_ON_OOM."""

from __future__ import annotations

from tests.kernel.conftest import start

from ballonet.guests.ballooned import BalloonedGuest
from ballonet.units import pages_to_bytes
from ballonet.virtio.features import Feature

MEMORY_BYTES = 256 << 20
BALLOON_PAGES = 40_000  # 156 MiB
# One buffer of a process: more than the balloon leaves, less than there is without it.
OVERCOMMIT = "echo 1 > /proc/sys/vm/overcommit_memory; dd if=/dev/zero of=/dev/null bs=130M count=1"
OOM_KILL = "Out of memory: Killed process"


def use_more_than_is_left(machine: BalloonedGuest) -> bool:
    """True if a command got more memory than the balloon leaves."""
    return machine.guest.run(f"{OVERCOMMIT}; echo $?").output.strip().splitlines()[-1] == "0"


def test_without_the_feature_the_guest_kills_and_its_total_shrinks_with_the_balloon() -> None:
    with start(memory_bytes=MEMORY_BYTES) as machine:
        total = machine.guest.meminfo()["MemTotal"]
        assert machine.resize(BALLOON_PAGES, stalled_after_s=20).reached
        assert machine.guest.meminfo()["MemTotal"] == total - pages_to_bytes(BALLOON_PAGES)

        assert not use_more_than_is_left(machine)

        assert OOM_KILL in machine.guest.kernel_log()
        assert machine.device.status().actual_pages == BALLOON_PAGES


def test_with_the_feature_the_balloon_gives_way_and_the_total_never_moves() -> None:
    offered = Feature.MUST_TELL_HOST | Feature.STATS_VQ | Feature.DEFLATE_ON_OOM
    with start(offered, MEMORY_BYTES) as machine:
        total = machine.guest.meminfo()["MemTotal"]
        assert machine.resize(BALLOON_PAGES, stalled_after_s=20).reached
        assert machine.guest.meminfo()["MemTotal"] == total

        assert use_more_than_is_left(machine)

        assert OOM_KILL not in machine.guest.kernel_log()
        counters = machine.device.status().counters
        assert machine.device.status().actual_pages < BALLOON_PAGES
        assert counters.deflated_pages > 0
