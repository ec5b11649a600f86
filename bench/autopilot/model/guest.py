"""One guest: layers of memory, a balloon that takes time, and what its programs suffer.

Layers, from what is given first: free memory, cache nobody reads, cache that is read, program
memory (to swap, if there is one, else processes are killed).  What the balloon can have without
swapping it gets at its own speed, cache five times more slowly than free memory.
Units: bytes, seconds.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from bench.autopilot.model.schedule import Schedule, Wish

__all__ = ["Faults", "Guest", "Losses"]

MIB = 1 << 20
_HIDDEN_BYTES = 10 * MIB  # MemTotal is so much less
_KERNEL_BYTES = 36 * MIB
_WATERMARK_SHARE = 0.008
_SWAP_BYTES_PER_S = 40 * MIB
_RESTART_S = 1.0
_REBOOT_S = 5.0
#: A kernel tries for so long before it kills.
_KILL_S = 0.5


@dataclass(slots=True)
class Losses:
    """What a guest has suffered."""

    kills: int = 0
    deaths: int = 0  #: of the whole VM, by the host
    deficit_s: float = 0.0  #: of demanded memory, the missing part, times time
    stall_s: float = 0.0
    relief_s: list[float] = field(default_factory=list)  #: from a shortage to its end
    bursts: int = 0
    bursts_served: int = 0


@dataclass(frozen=True, slots=True)
class Faults:
    """What is wrong with it."""

    refuses: bool = False  #: its balloon takes nothing
    is_frozen: bool = False  #: its statistics stay as they were
    lies: bool = False  #: it says that nothing is available
    deflates_on_oom: bool = False


class Guest:
    """Stepped by `advance`; `target_bytes` is set from outside."""

    def __init__(
        self, name: str, memory_bytes: int, schedule: Schedule, dice: random.Random, faults: Faults
    ) -> None:
        self.name, self.memory_bytes, self.schedule = name, memory_bytes, schedule
        self.faults, self.losses = faults, Losses()
        self.actual_bytes = self.target_bytes = float(memory_bytes)
        self.anon_bytes = self.swapped_bytes = self.cold_cache = self.hot_cache = 0.0
        self.touched_free = 0.0
        self.balloon_bytes_per_s = dice.uniform(40, 300) * MIB
        self.counters = dict.fromkeys(
            ("swap_in", "swap_out", "majflt", "oom_kill", "alloc_stall", "direct_reclaim"), 0.0
        )
        self._next_wish, self._wish = 0, Wish(0, 0, 1)
        self._down_until_s = self._starved_s = 0.0
        self._short_since_s: float | None = None
        self._is_burst_open = False
        self.now_s = 0.0

    # --- sizes ---------------------------------------------------------------------------------

    @property
    def room_bytes(self) -> float:
        """For programs, cache and what is free."""
        return self.actual_bytes - _HIDDEN_BYTES - _KERNEL_BYTES

    @property
    def cache_bytes(self) -> float:
        """All of it."""
        return self.cold_cache + self.hot_cache

    @property
    def free_bytes(self) -> float:
        """Nobody's."""
        return max(0.0, self.room_bytes - self.anon_bytes - self.cache_bytes)

    @property
    def available_bytes(self) -> float:
        """As Linux counts it."""
        watermark = self.memory_bytes * _WATERMARK_SHARE
        return max(0.0, self.free_bytes + 0.9 * self.cache_bytes - watermark)

    @property
    def held_bytes(self) -> float:
        """By the host."""
        touched = min(self.touched_free, self.free_bytes)
        return _KERNEL_BYTES + self.anon_bytes + self.cache_bytes + touched

    @property
    def least_bytes(self) -> float:
        """What it has to keep, whatever its programs do."""
        return _HIDDEN_BYTES + _KERNEL_BYTES + self.memory_bytes * _WATERMARK_SHARE

    @property
    def wanted_bytes(self) -> float:
        """What its programs want."""
        return self._wish.anon_share * self.memory_bytes

    # --- time ----------------------------------------------------------------------------------

    def advance(self, seconds: float) -> None:
        """A little later."""
        self.now_s += seconds
        self._take_wishes()
        self._move_balloon(seconds)
        self.touched_free = min(self.touched_free, self.free_bytes)
        stalled = self._grow(seconds)
        stalled += self._read(seconds)
        stalled += self._swap_in(seconds)
        self._score(seconds, min(seconds, stalled))

    def die(self) -> None:
        """The host has killed its process; it is started again, and its programs with it."""
        self.losses.deaths += 1
        self.anon_bytes = self.swapped_bytes = self.cold_cache = self.hot_cache = 0.0
        self.touched_free = 0.0
        self.actual_bytes = float(self.memory_bytes)
        self.counters = dict.fromkeys(self.counters, 0.0)
        self._down_until_s = self.now_s + _REBOOT_S

    def _take_wishes(self) -> None:
        wishes = self.schedule.wishes
        while self._next_wish < len(wishes) and wishes[self._next_wish].at_s <= self.now_s:
            if self._is_burst_open:
                self._is_burst_open = False
            self._wish = wishes[self._next_wish]
            self._next_wish += 1
            if self._wish.anon_share >= 0.4:
                self.losses.bursts += 1
                self._is_burst_open = True
        total = self.anon_bytes + self.swapped_bytes
        if total > self.wanted_bytes:
            drop = total - self.wanted_bytes
            swapped = min(self.swapped_bytes, drop)
            self.swapped_bytes -= swapped
            self.anon_bytes -= drop - swapped
            self.touched_free += drop - swapped

    def _move_balloon(self, seconds: float) -> None:
        gap = self.target_bytes - self.actual_bytes
        step = self.balloon_bytes_per_s * seconds
        if gap >= 0:
            self.actual_bytes += min(gap, 2 * step)
            return
        if self.faults.refuses:
            return
        keep = self.memory_bytes * _WATERMARK_SHARE
        free = min(-gap, step, max(0.0, self.free_bytes - keep))
        if self.free_bytes > 0:
            self.touched_free *= 1 - free / self.free_bytes
        self.actual_bytes -= free
        rest = min(-gap - free, (step - free) * 0.2)
        cache = min(rest, self.cache_bytes)
        self._drop_cache(cache)
        self.actual_bytes -= cache
        rest -= cache
        if self.schedule.has_swap and rest > 0:
            swapped = min(rest, _SWAP_BYTES_PER_S * seconds * 0.3, self.anon_bytes * 0.5)
            self._swap_out(swapped)
            self.actual_bytes -= swapped

    def _drop_cache(self, size: float) -> None:
        cold = min(size, self.cold_cache)
        self.cold_cache -= cold
        self.hot_cache -= min(self.hot_cache, size - cold)
        self.counters["direct_reclaim"] += size

    def _swap_out(self, size: float) -> None:
        self.anon_bytes -= size
        self.swapped_bytes += size
        self.counters["swap_out"] += size

    def _grow(self, seconds: float) -> float:
        """Programs take memory; returns for how long they waited."""
        if self.now_s < self._down_until_s:
            return 0.0
        missing = self.wanted_bytes - self.anon_bytes - self.swapped_bytes
        step = min(max(0.0, missing), self._wish.mib_per_s * MIB * seconds)
        if step <= 0:
            return 0.0
        keep = self.memory_bytes * _WATERMARK_SHARE
        free = min(step, max(0.0, self.free_bytes - keep))
        self.touched_free = max(0.0, self.touched_free - free)
        self.anon_bytes += free
        rest = step - free
        cache = min(rest, self.cache_bytes, 200 * MIB * seconds)
        self._drop_cache(cache)
        self.anon_bytes += cache
        rest -= cache
        stalled = cache / (200 * MIB)
        if cache:
            self.counters["alloc_stall"] += cache / (32 * 4096)
        if rest > 1:
            return stalled + self._grow_hard(rest, seconds)
        self._starved_s = 0.0
        return stalled

    def _grow_hard(self, rest: float, seconds: float) -> float:
        """Nothing is free and nothing is cache."""
        self.counters["alloc_stall"] += 150 * seconds
        if self.schedule.has_swap:
            swapped = min(rest, _SWAP_BYTES_PER_S * seconds, self.anon_bytes * 0.5)
            self._swap_out(swapped)
            self.anon_bytes += swapped
            return seconds
        if self.faults.deflates_on_oom and self.actual_bytes < self.memory_bytes:
            taken = min(rest, self.memory_bytes - self.actual_bytes)
            self.actual_bytes += taken
            self.anon_bytes += taken
            return seconds * 0.5
        self._starved_s += seconds
        if self._starved_s < _KILL_S:
            return seconds
        self._starved_s = 0.0
        self.losses.kills += 1
        self.counters["oom_kill"] += 1
        self.touched_free += self.anon_bytes
        self.anon_bytes = 0.0
        self._down_until_s = self.now_s + _RESTART_S
        return seconds

    def _read(self, seconds: float) -> float:
        """Files are read: a hot set again and again, the rest once."""
        rate, hot = self._wish.read_mib_per_s * MIB, self._wish.hot_share * self.memory_bytes
        if rate <= 0 or hot <= 0:
            return 0.0
        miss = max(0.0, 1 - self.hot_cache / hot)
        size = min(rate * seconds * miss, 20 * MIB * seconds)
        room = max(0.0, self.free_bytes - self.memory_bytes * _WATERMARK_SHARE)
        new = min(size, room + self.cold_cache)
        recycled = max(0.0, new - room)
        self.cold_cache -= recycled
        self.touched_free = max(0.0, self.touched_free - new)
        self.hot_cache = min(hot, self.hot_cache + new)
        self.counters["direct_reclaim"] += size - min(size, room)
        return 0.5 * miss * seconds

    def _swap_in(self, seconds: float) -> float:
        """What was swapped out is needed again, a part of it."""
        if self.swapped_bytes < MIB:
            return 0.0
        wanted = min(self.swapped_bytes, _SWAP_BYTES_PER_S * seconds)
        size = min(wanted, max(0.0, self.free_bytes - self.memory_bytes * _WATERMARK_SHARE))
        if size < wanted * 0.5:
            size = wanted * 0.3  # thrashing: for each page that comes another one goes
            self.counters["swap_out"] += size
            self.counters["swap_in"] += size
            self.counters["majflt"] += size / 4096
            return seconds * 0.8
        self.swapped_bytes -= size
        self.anon_bytes += size
        self.counters["swap_in"] += size
        self.counters["majflt"] += size / 4096
        return seconds * 0.3

    def _score(self, seconds: float, stalled: float) -> None:
        losses = self.losses
        losses.stall_s += stalled
        resident = self.anon_bytes
        step = self._wish.mib_per_s * MIB * seconds
        ideal = min(self.wanted_bytes, self._ideal_bytes(seconds))
        is_short = resident < ideal - max(2 * step, 2 * MIB)
        if ideal > 0:
            losses.deficit_s += seconds * max(0.0, ideal - resident) / ideal
        if is_short and self._short_since_s is None:
            self._short_since_s = self.now_s
        if not is_short and self._short_since_s is not None:
            losses.relief_s.append(self.now_s - self._short_since_s)
            self._short_since_s = None
        if self._is_burst_open and resident >= 0.95 * self.wanted_bytes:
            losses.bursts_served += 1
            self._is_burst_open = False

    _ideal = 0.0

    def _ideal_bytes(self, seconds: float) -> float:
        """What its programs would have with all memory in the world."""
        rate = self._wish.mib_per_s * MIB * seconds
        self._ideal = min(self.wanted_bytes, self._ideal + rate)
        return self._ideal
