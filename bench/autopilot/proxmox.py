"""How Proxmox VE divides memory, from its published behaviour; reproduces its own test's numbers.

Every 10 s a goal is what the host's used memory lies below 80 % of all, or above, if negative.  VMs
with much free memory are easy.  Who grows is whoever is not easy, who shrinks is easy; if that
moves nothing, everybody.  What all of them have above their minimum and the goal is divided by
shares, and nobody moves by more than a step.
Source: pve-manager's AutoBalloon, behaviour only.  Units: bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

__all__ = ["STEP_BYTES", "ProxmoxVm", "goal_of", "next_sizes"]

STEP_BYTES: Final = 100 << 20
_DEAD_BAND_BYTES: Final = 10 << 20
_TARGET_SHARE: Final = 0.8
_EASY_SHARE: Final = 0.25


class ProxmoxVm(NamedTuple):
    """One VM."""

    least_bytes: int
    most_bytes: int
    has_bytes: int
    free_bytes: int  #: the guest's free memory, caches not counted
    shares: int = 1000

    @property
    def is_easy(self) -> bool:
        """It has more free than it needs."""
        return self.free_bytes > self.least_bytes * _EASY_SHARE and self.has_bytes >= (
            self.least_bytes
        )


def goal_of(total_bytes: int, available_bytes: int) -> int:
    """What there is to give away; below 0: what has to come back."""
    return int(total_bytes * _TARGET_SHARE) - (total_bytes - available_bytes)


def next_sizes(
    vms: Mapping[str, ProxmoxVm], goal_bytes: int, step_bytes: int = STEP_BYTES
) -> dict[str, int]:
    """New sizes of those that change."""
    vms = {vm: one for vm, one in vms.items() if one.shares}
    if abs(goal_bytes) <= _DEAD_BAND_BYTES:
        return {}
    first = {vm for vm, one in vms.items() if one.is_easy == (goal_bytes < 0)}
    sizes = {vm: one.has_bytes for vm, one in vms.items()}
    moved_bytes = _divide(vms, sizes, first, goal_bytes, step_bytes)
    if (moved_bytes <= 0) if goal_bytes > 0 else (moved_bytes >= 0):
        _divide(vms, sizes, vms.keys(), goal_bytes - moved_bytes, step_bytes)
    return {vm: size for vm, size in sizes.items() if size != vms[vm].has_bytes}


def _divide(
    vms: Mapping[str, ProxmoxVm],
    sizes: dict[str, int],
    among: Collection[str],
    goal_bytes: int,
    step_bytes: int,
) -> int:
    """Move `sizes` towards the goal until that changes nothing; returns by how much in all."""
    open_vms, rest_bytes = set(among), goal_bytes
    while open_vms and rest_bytes:
        shares = sum(vms[vm].shares for vm in open_vms)
        pool_bytes = rest_bytes + sum(sizes[vm] - vms[vm].least_bytes for vm in open_vms)
        moved_bytes, has_moved = 0, False
        for vm in sorted(open_vms):
            one = vms[vm]
            wanted = one.least_bytes + int(pool_bytes / shares * one.shares)
            wanted = min(max(wanted, one.least_bytes), one.most_bytes)
            if wanted == one.has_bytes or (wanted > one.has_bytes and goal_bytes < 0):
                open_vms.discard(vm)
                continue
            size = min(max(wanted, one.has_bytes - step_bytes), one.has_bytes + step_bytes)
            has_moved = has_moved or size != sizes[vm]
            moved_bytes += size - sizes[vm]
            sizes[vm] = size
        rest_bytes -= moved_bytes
        if not has_moved:
            break
    return goal_bytes - rest_bytes
