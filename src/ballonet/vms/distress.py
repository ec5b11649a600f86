"""Whether a guest suffers while its balloon grows, by two samples of its statistics.

A rate counts when it holds for two samples: starting a program reads as many pages from disk as
running out of memory does, but not for long.
Units: bytes, seconds.
Source: Linux mm/vmstat.c for what the counters count; the limits are those of senpai's and
ChromeOS's kind, checked on guests of 384 MiB under one budget.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ballonet.units import BALLOON_PAGE_BYTES, format_bytes
from ballonet.vms.guest_stats import GuestStats

__all__ = ["Distress"]

#: Of all its memory, in thousandths; a guest whose driver found nothing more had 8 available.
_AVAILABLE_PER_MILLE: Final = 15
_SWAP_IN_BYTES_PER_S: Final = 4 << 20
_MAJOR_FAULTS_PER_S: Final = 200
#: Beside those of the driver itself, which reclaims this many pages at each of its own
#: [Linux SWAP_CLUSTER_MAX].
_STALLS_PER_S: Final = 100
_PAGES_PER_STALL: Final = 32


class Distress:
    """Watches one guest; `see` every new sample."""

    def __init__(self, ram_bytes: int, first: GuestStats | None, logical_bytes: int) -> None:
        self._ram_bytes = ram_bytes
        self._newest, self._logical_bytes = first, logical_bytes
        self._was: frozenset[str] = frozenset()

    def see(self, sample: GuestStats, logical_bytes: int) -> str | None:
        """What the guest suffers from, in words; None: it does not."""
        before, moved_bytes = self._newest, self._logical_bytes - logical_bytes
        self._newest, self._logical_bytes = sample, logical_bytes
        available_bytes = sample.available_bytes
        if available_bytes is not None and (
            available_bytes * 1000 < self._ram_bytes * _AVAILABLE_PER_MILLE
        ):
            return f"it has only {format_bytes(available_bytes)} available"
        if before is None:
            return None
        grown = _grown(before, sample)
        if grown.get("oom_kill"):
            return f"its kernel has killed {grown['oom_kill']} processes for want of memory"
        seconds = max(1, (sample.last_update_s or 0) - (before.last_update_s or 0))
        now = _storms(grown, seconds, max(0, moved_bytes))
        lasting, self._was = self._was & now.keys(), frozenset(now)
        return next((now[name] for name in now if name in lasting), None)


def _grown(before: GuestStats, after: GuestStats) -> Mapping[str, int]:
    """What each counter has gained; one that fell is another kernel's."""
    return {
        name: max(0, value - before.values[name])
        for name, value in after.values.items()
        if name in before.values
    }


def _storms(grown: Mapping[str, int], seconds: int, moved_bytes: int) -> dict[str, str]:
    """Everything that happens too often, by name, in words."""
    own_stalls = moved_bytes // BALLOON_PAGE_BYTES // _PAGES_PER_STALL
    per_s = {
        "swap_in": grown.get("swap_in", 0) // seconds,
        "majflt": grown.get("majflt", 0) // seconds,
        "alloc_stall": max(0, grown.get("alloc_stall", 0) - own_stalls) // seconds,
    }
    storms = {}
    if per_s["swap_in"] > _SWAP_IN_BYTES_PER_S:
        storms["swap_in"] = f"it reads {format_bytes(per_s['swap_in'])}/s back from its swap"
    if per_s["majflt"] > _MAJOR_FAULTS_PER_S:
        storms["majflt"] = f"it reads pages back from disk {per_s['majflt']} times a second"
    if per_s["alloc_stall"] > _STALLS_PER_S:
        storms["alloc_stall"] = (
            f"its programs wait for memory {per_s['alloc_stall']} times a second"
        )
    return storms
