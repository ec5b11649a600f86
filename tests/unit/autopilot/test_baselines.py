"""The laws of others, that ours is compared with."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from bench.autopilot.mom import MomVm, next_size
from bench.autopilot.proxmox import ProxmoxVm, goal_of, next_sizes

MB, GB = 10**6, 10**9
STEP = 100 * MB


def proxmox_vm(minimum: int, has: int, shares: int, free: int = 0) -> ProxmoxVm:
    return ProxmoxVm(minimum, 2 * GB, has, free, shares)


TWO = {"100": proxmox_vm(GB, GB, 2000), "101": proxmox_vm(GB, GB, 1000)}
ONE_FULL = {"100": proxmox_vm(2 * GB, 2 * GB, 2000), "101": proxmox_vm(GB, GB, 1000)}
THREE = {
    "100": proxmox_vm(2 * GB, 2 * GB, 2000),
    "101": proxmox_vm(GB, GB + 7 * MB, 1000),
    "102": proxmox_vm(GB, GB, 1000, 512 * MB),
}


def to_the_end(
    vms: Mapping[str, ProxmoxVm], goal: int
) -> tuple[dict[str, int], dict[str, ProxmoxVm]]:
    """Rounds until nothing moves: new sizes, and the VMs then."""
    now, sizes = dict(vms), dict[str, int]()
    while changes := next_sizes(now, goal, STEP):
        for vm, size in changes.items():
            by = size - now[vm].has_bytes
            free = max(0, now[vm].free_bytes + by)
            now[vm] = now[vm]._replace(has_bytes=size, free_bytes=free)
            goal -= by
        sizes |= changes
    return sizes, now


def in_mb(sizes: Mapping[str, int]) -> dict[str, float]:
    return {vm: size / MB for vm, size in sizes.items()}


@pytest.mark.parametrize(
    ("vms", "goal_mb", "sizes"),
    [
        (TWO, 0, {}),
        (TWO, 90, {"100": 1060, "101": 1030}),
        (TWO, 150, {"100": 1100, "101": 1050}),
        (TWO, 270, {"100": 1100, "101": 1090}),
        (ONE_FULL, 0, {}),
        (ONE_FULL, 18, {"101": 1018}),
        (ONE_FULL, 500, {"101": 1100}),
        (THREE, 0, {}),
        (THREE, 11, {"101": 1018}),
        (THREE, 80, {"101": 1087}),
        (THREE, 200, {"101": 1107}),
    ],
)
def test_proxmox_one_round_gives_the_numbers_of_its_own_test(
    vms: Mapping[str, ProxmoxVm], goal_mb: int, sizes: dict[str, float]
) -> None:
    assert in_mb(next_sizes(vms, goal_mb * MB, STEP)) == sizes


@pytest.mark.parametrize(
    ("goal_mb", "sizes"),
    [
        (180, {"100": 1120, "101": 1060}),
        (270, {"100": 1180, "101": 1090}),
        (600, {"100": 1300, "101": 1300}),
        (900, {"100": 1600, "101": 1300}),
    ],
)
def test_proxmox_rounds_to_the_end_give_the_numbers_of_its_own_test(
    goal_mb: int, sizes: dict[str, float]
) -> None:
    assert in_mb(to_the_end(TWO, goal_mb * MB)[0]) == sizes


@pytest.mark.parametrize(
    ("goal_mb", "sizes"),
    [
        (-200, {"101": 1200, "102": 1200}),
        (-400, {"101": 1200, "102": 1000}),
        (-593, {"101": 1007, "102": 1000}),
    ],
)
def test_proxmox_takes_back_what_its_own_test_has_given(
    goal_mb: int, sizes: dict[str, float]
) -> None:
    given, vms = to_the_end(THREE, 593 * MB)
    assert in_mb(given) == {"101": 1300, "102": 1300}
    assert in_mb(to_the_end(vms, goal_mb * MB)[0]) == sizes


def test_proxmox_aims_at_four_fifths_of_the_host_in_use() -> None:
    assert goal_of(100, 30) == 10
    assert goal_of(100, 10) == -10


def test_mom_grows_nobody_below_a_fifth_of_the_host_free() -> None:
    starving = MomVm(250, 1000, 400, 400.0, 0.0)
    assert next_size(starving, 0.19) == 400
    assert next_size(starving, 0.21) == 480


def test_mom_takes_a_twentieth_at_a_time_and_no_more_than_is_free() -> None:
    assert next_size(MomVm(250, 1000, 800, 800.0, 500.0), 0.10) == 760
    assert next_size(MomVm(250, 1000, 800, 800.0, 90.0), 0.10) == 790
    assert next_size(MomVm(250, 1000, 200, 200.0, 0.0), 0.10) == 250
