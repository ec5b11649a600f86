"""When a guest suffers, and when it only works."""

from __future__ import annotations

import pytest

from ballonet.vms.distress import Distress
from ballonet.vms.guest_stats import GuestStats

MIB = 1 << 20
RAM = 512 * MIB


def sample(at_s: int, **values: int) -> GuestStats:
    return GuestStats(at_s, {"avail": 200 * MIB} | values)


def seen(*samples: GuestStats, logical: tuple[int, ...] = ()) -> list[str | None]:
    """What is said of each sample but the first."""
    sizes = logical or (RAM,) * len(samples)
    watch = Distress(RAM, samples[0], sizes[0])
    return [watch.see(one, size) for one, size in zip(samples[1:], sizes[1:], strict=True)]


def test_a_guest_at_peace_is_left_alone() -> None:
    busy = [
        sample(at, majflt=190 * at, swap_in=4 * MIB * at, alloc_stall=90 * at) for at in range(4)
    ]
    assert seen(*busy) == [None, None, None]


def test_a_guest_with_nothing_available_suffers_at_once() -> None:
    enough, little = RAM * 15 // 1000 + 1, RAM * 15 // 1000
    assert seen(sample(1), sample(2, avail=enough)) == [None]
    assert seen(sample(1), sample(2, avail=little)) == ["it has only 7.7 MiB available"]


def test_a_process_killed_for_memory_is_suffering_at_once() -> None:
    words = "its kernel has killed 2 processes for want of memory"
    assert seen(sample(1, oom_kill=5), sample(2, oom_kill=7), sample(3, oom_kill=7)) == [
        words,
        None,
    ]


@pytest.mark.parametrize(
    ("name", "per_s", "words"),
    [
        ("swap_in", 5 * MIB, "it reads 5.0 MiB/s back from its swap"),
        ("majflt", 300, "it reads pages back from disk 300 times a second"),
        ("alloc_stall", 150, "its programs wait for memory 150 times a second"),
    ],
)
def test_a_storm_counts_when_it_lasts(name: str, per_s: int, words: str) -> None:
    storm = [sample(at, **{name: per_s * at}) for at in range(3)]
    assert seen(*storm) == [None, words]
    once = [sample(at, **{name: per_s * min(at, 1)}) for at in range(4)]
    assert seen(*once) == [None, None, None]


def test_rates_are_by_the_seconds_between_two_samples() -> None:
    assert seen(*[sample(10 * at, majflt=1000 * at) for at in range(3)]) == [None, None]


def test_stalls_of_the_driver_itself_do_not_count() -> None:
    moved = 100 * MIB  # 25,600 pages: 800 stalls of 32 pages each
    samples = [sample(at, alloc_stall=850 * at) for at in range(3)]
    assert seen(*samples, logical=(RAM, RAM - moved, RAM - 2 * moved)) == [None, None]
    assert seen(*samples)[1] == "its programs wait for memory 850 times a second"


def test_counters_that_fell_are_another_kernels() -> None:
    assert seen(sample(1, oom_kill=5), sample(2, oom_kill=1)) == [None]


def test_a_driver_that_sends_little_says_little() -> None:
    assert seen(GuestStats(1, {}), GuestStats(2, {"swap_in": 9})) == [None]
