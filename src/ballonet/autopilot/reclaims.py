"""Who gives memory now, and how much: only for a reason.

Somebody lacks memory that the budget does not have, or the host does; in mode hold the host wants
what nobody needs.  Otherwise memory stays where it is, and where demand rests nothing moves.  A VM
is asked for no more than it does not use, no further ahead than it gives in 2 s, by a fresh answer,
not while it suffers, and not at once after it got something.
Units: bytes (logical size), seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ballonet.autopilot.budget import HostState
from ballonet.autopilot.claims import Standing
from ballonet.autopilot.moment import Moment
from ballonet.autopilot.vm_state import MAY_GIVE, VmState

__all__ = ["Reclaims"]


class Reclaims:
    """What has to come back, and from whom."""

    def __init__(
        self, moment: Moment, urgent_bytes: int, calm_bytes: int, host_state: HostState
    ) -> None:
        self._moment, self._constants = moment, moment.constants
        self._urgent_bytes, self._all_bytes = urgent_bytes, urgent_bytes + calm_bytes
        self._is_urgent = urgent_bytes > 0 or host_state is not HostState.GREEN
        self.dwelling: set[str] = set()

    def take_account_of(self, pending_bytes: int) -> None:
        """So much is on its way already."""
        self._all_bytes -= pending_bytes
        self._urgent_bytes -= pending_bytes

    def of(self, standings: Sequence[Standing], allotted: Mapping[str, int]) -> dict[str, int]:
        """New targets: from whom has most to spare, and got nothing of late, first."""
        donors = [
            (self._rests(one), -self._spare(one, allotted), one.record.vm, one)
            for one in standings
            if self._may_give(one, allotted)
        ]
        targets = {}
        for rests, _, vm, one in sorted(donors):
            needed_bytes = self._urgent_bytes if rests else self._all_bytes
            if needed_bytes <= 0:
                continue
            taken_bytes = self._take(one, allotted, needed_bytes)
            if taken_bytes:
                targets[vm] = self._asked(one) - taken_bytes
                self.take_account_of(taken_bytes)
        return targets

    def held_back(
        self, standings: Sequence[Standing], allotted: Mapping[str, int]
    ) -> dict[str, int]:
        """What nobody needs, slowly."""
        targets = {}
        for one in standings:
            if not self._may_give(one, allotted) or self._rests(one):
                continue
            step_bytes = int(self._spare(one, allotted) * self._constants.hold_step_share)
            taken_bytes = self._take(one, allotted, step_bytes)
            if taken_bytes:
                targets[one.record.vm] = self._asked(one) - taken_bytes
        return targets

    def _asked(self, one: Standing) -> int:
        """What it keeps once it has done what it was asked for."""
        return min(one.record.sizes.actual_bytes, one.record.target_bytes)

    def _spare(self, one: Standing, allotted: Mapping[str, int]) -> int:
        """What it neither uses nor should have; it is never asked for more than that."""
        record = one.record
        used_bytes = record.estimate.used_bytes if record.estimate is not None else 0
        has_failed = record.progress.failures > 0  # then what it has is allotted to it
        bottom_bytes = max(
            0 if has_failed else allotted[record.vm],
            one.least_bytes,
            used_bytes + self._constants.pad_of(record.memory_bytes),
        )
        step_bytes = self._constants.target_step_bytes
        return self._asked(one) - -(-bottom_bytes // step_bytes) * step_bytes

    def _may_give(self, one: Standing, allotted: Mapping[str, int]) -> bool:
        record, now_s = one.record, self._moment.now_s
        if (
            record.state not in MAY_GIVE
            or record.estimate is None
            or record.answer.refusal is not None
        ):
            return False
        if record.estimate.is_censored or now_s - record.answer.at_s > self._moment.fresh_s:
            return False
        if self._spare(one, allotted) < self._least_of(record.memory_bytes):
            return False
        since_s = now_s - record.asked.raised_s
        dwell_s = self._constants.dwell_urgent_s if self._is_urgent else self._constants.dwell_s
        if since_s < dwell_s:
            self.dwelling.add(record.vm)
        return since_s >= dwell_s

    def _least_of(self, memory_bytes: int) -> int:
        """Less than this is not worth asking for; of many donors little each is enough."""
        band_bytes = self._constants.dead_band_of(memory_bytes)
        share = self._constants.dead_band_urgent_share if self._is_urgent else 1.0
        return int(band_bytes * share)

    def _rests(self, one: Standing) -> bool:
        """It got something not long ago, or its use rises: only for what is urgent."""
        record = one.record
        rise_bytes = record.estimate.rise_bytes if record.estimate is not None else 0
        return (
            self._moment.now_s - record.asked.raised_s < self._constants.dwell_s
            or rise_bytes > self._constants.pad_of(record.memory_bytes) // 2
        )

    def _take(self, one: Standing, allotted: Mapping[str, int], needed_bytes: int) -> int:
        """In whole steps, no more than it can give soon."""
        constants, record = self._constants, one.record
        window_bytes = min(
            max(
                int(record.progress.rate_bytes_per_s * constants.window_s),
                constants.window_least_bytes,
            ),
            constants.window_most_bytes,
        )
        if record.state is VmState.PROBE:
            window_bytes = constants.probe_bytes
        step_bytes = constants.target_step_bytes
        most_bytes = min(self._spare(one, allotted), window_bytes - record.sizes.pending_bytes)
        wanted_bytes = max(needed_bytes, constants.dead_band_bytes)
        taken_bytes = min(most_bytes, -(-wanted_bytes // step_bytes) * step_bytes)
        return max(0, taken_bytes // step_bytes * step_bytes)
