"""Every number of the law, with its unit and what it stands on.

Operators set none of these.  "six guests" are User-Mode Linux guests of 384 MiB under one budget of
1152 MiB; "the model" is bench/autopilot/model, whose figures choose between values and prove
nothing about real guests; F and a number is a row of the failures in docs/autopilot.md.
Units: bytes, seconds, shares of 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["DEFAULTS", "MIB", "Constants"]

MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Constants:
    """The table.  Another one is for experiments with the law, not for operation."""

    # --- what a guest needs: estimation, need ----------------------------------------------------

    #: Above what a guest uses, or its kernel cannot allocate: one of 512 MiB that could give no
    #: more had 4 MiB available (QEMU 7.2, Linux 6.1).  With a large pad the first tier is an equal
    #: split: launch ramps of the six guests did that.
    pad_least_bytes: int = 16 * MIB
    pad_share: float = 0.02
    #: For what comes until the next look: the margin of `vms.floor`.
    margin_least_bytes: int = 64 * MIB
    margin_share: float = 1 / 25
    margin_most_share: float = 1 / 8
    #: Use that rises is expected to rise by half as much again as within these seconds: from a look
    #: to the next, and 1.3 to 3.4 s on the six guests from a shortage to its relief.
    rise_s: float = 2.5
    rise_times: float = 1.5
    #: ... and by no more than this share of the guest's memory.
    rise_most_share: float = 0.3
    #: Who ran into its limit wanted more than it had, and so much of it is expected again: in the
    #: model 1.25 times costs a third more kills, one after the other of the same program.
    hit_times: float = 2.0
    #: ... and a quarter more of it where that is a first guess.
    hit_guess_times: float = 1.25
    #: ... soon, because what was killed is started again.
    hit_decay_s: float = 30.0
    #: 88 % of overloads last less than 2 minutes (Overdriver): so long a peak is expected again.
    peak_decay_s: float = 120.0
    peak_head_share: float = 0.12
    #: A guest at its limit shows what it has, not what it wants.  A step for each of its answers:
    #: steps of 10 % of its memory were too slow for bursts of 160 MiB/s, these were not.
    censored_share_of_memory: float = 0.10
    censored_share_of_use: float = 0.35
    #: It is at its limit when so much is available; half a pad, where that is more.
    scarce_share: float = 0.015
    #: Cache that a kernel which does not tell what it reclaims is thought to need.  All of it would
    #: count old reads as need, none of it made the six guests' cache misses invisible.
    blind_cache_share: float = 0.5
    #: A kernel that reclaims so much of its memory a second, beside what the balloon takes,
    #: recycles its cache.
    recycled_share_per_s: float = 0.01
    refaults_per_s: float = 200.0
    #: A lesson is half forgotten after half an hour.
    cache_half_life_s: float = 1800.0
    cache_step_share: float = 0.02

    # --- when a guest suffers: distress ----------------------------------------------------------

    #: The limits of `vms.distress`; senpai's and ChromeOS's are of the same size.
    swap_in_bytes_per_s: float = 4.0 * MIB
    major_faults_per_s: float = 200.0
    stalls_per_s: float = 100.0
    stall_share: float = 0.10
    #: A guest with so much free memory reads from disk what it never had.
    idle_free_share: float = 1 / 16
    #: Linux reclaims 32 pages at each stall of the balloon's own allocations (SWAP_CLUSTER_MAX).
    own_stall_bytes: int = 32 * 4096

    # --- what there is: budget -------------------------------------------------------------------

    #: Of the host's memory, for the host.  512 MiB, but on small ones no more than a 20th.
    reserve_share: float = 0.02
    reserve_least_bytes: int = 512 * MIB
    reserve_most_share: float = 0.05
    #: ... and this often the fastest growth of everything else between two looks, up to a share.
    others_growth_times: int = 3
    others_growth_most_share: float = 0.03
    others_growth_decay_s: float = 600.0
    #: Of the budget: for use and its growth alone, so that a burst need not wait for donors.
    pool_share: float = 0.10
    #: With less of the pool left it is filled up at once: the next burst would find nothing.  In
    #: the model that saves a tenth of the kills and costs a tenth of the turns, a quarter of the
    #: pool another fifth of them.
    pool_least_share: float = 0.1
    #: A host state is left for a better one with so much more, held for so long.
    host_better_share: float = 0.25
    host_better_s: float = 10.0
    host_full_stall_share: float = 0.05

    # --- how memory moves: actuation -------------------------------------------------------------

    #: Differences below this are not worth a command: 16 MiB, a hundredth of the memory.
    dead_band_bytes: int = 16 * MIB
    dead_band_share: float = 0.01
    #: ... or, of those who give while others lack what they use, this part of it: with all of it
    #: four kernels of 256 MiB had 30 MiB to spare together, and a fifth was killed beside them.
    dead_band_urgent_share: float = 0.5
    #: Targets are whole MiB: Firecracker takes no other.
    target_step_bytes: int = MIB
    #: From one direction to the other: unless others lack memory that they use, ...
    dwell_s: float = 30.0
    #: ... and then too.
    dwell_urgent_s: float = 3.0
    #: A guest that suffered is left alone for so long after.
    distress_rest_s: float = 4.0
    #: Who has less than a fair part of the surplus waits so long before others give theirs.
    surplus_patience_s: float = 120.0
    #: A request goes no further ahead of the guest than it gives in 2 s: F5 was 1044 MiB at once.
    window_s: float = 2.0
    window_least_bytes: int = 32 * MIB
    window_most_bytes: int = 600 * MIB
    #: Before anything was measured: 65 to 575 MiB/s alone, 4 to 55 MiB/s on a busy machine.
    rate_prior_bytes_per_s: float = 100.0 * MIB
    rate_memory: float = 0.7
    #: Cache is given this much more slowly than free memory (0.3 beside 1.5 GiB/s).
    cache_rate_share: float = 0.2
    #: Mode hold takes what is not needed in steps of a 16th.
    hold_step_share: float = 1 / 16

    #: Between looks; where anything moves, the second.  In the model half a second instead of one
    #: saves a third of the kills.
    look_s: float = 1.0
    look_hurried_s: float = 0.5

    # --- whether a VM can be moved: vm_state -----------------------------------------------------

    #: F25: some programs read the size of memory once, while they start.
    boot_s: float = 120.0
    probe_bytes: int = 16 * MIB
    #: Stuck is no progress at all: 15 MiB/s, as elsewhere, is fast on a busy machine.
    stuck_s: float = 8.0
    progress_bytes: int = 4 * MIB
    retry_s: float = 10.0
    retry_most_s: float = 3600.0
    #: A timer of 1 s in a guest was late by up to 3.2 s.
    stale_periods: float = 3.0
    stale_s: float = 10.0
    #: Memory is taken by answers that are no older than this, or 3 periods.
    fresh_s: float = 4.0
    #: A guest whose statistics stopped may be thrashing: it drifts up to its fair part.
    stale_drift_s: float = 30.0
    #: Sizes that differ by less are the same (F22: 1 MiB made every VM "uncooperative").
    slack_bytes: int = 4 * MIB
    slack_share: float = 0.001

    def slack_of(self, memory_bytes: int) -> int:
        """Sizes of this VM that differ by no more are the same."""
        return max(self.slack_bytes, int(memory_bytes * self.slack_share))

    def dead_band_of(self, memory_bytes: int) -> int:
        """Smaller changes of this VM are not made."""
        return max(self.dead_band_bytes, int(memory_bytes * self.dead_band_share))

    def pad_of(self, memory_bytes: int) -> int:
        """What a guest has above what it uses, or suffers."""
        wanted = max(self.pad_least_bytes, int(memory_bytes * self.pad_share))
        return min(wanted, int(memory_bytes * self.margin_most_share))

    def margin_of(self, memory_bytes: int) -> int:
        """What a guest has above what it uses, for what it does next."""
        wanted = max(self.margin_least_bytes, int(memory_bytes * self.margin_share))
        return min(wanted, int(memory_bytes * self.margin_most_share))


DEFAULTS: Final = Constants()
