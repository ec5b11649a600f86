"""Whether another pass pays: rates, what a stop would cost now, and when there was time enough.

A pass sends what was written while the one before it was sent.  If that gets less and less the
guest is stopped once the rest takes no longer than the downtime that was asked for; if it does not,
the guest can be slowed down, and in the end the migration is given up or forced.
Source: QEMU migration.c migration_rate_limit, ram.c mig_throttle_guest_down (its steps of 20 and
10 percent).  Units: balloon pages, bytes, nanoseconds.
"""

from __future__ import annotations

from typing import Final

from ballonet.balloon.clock import NS_PER_S, Clock
from ballonet.errors import MigrationError
from ballonet.migration.settings import MigrationSettings, OnTimeout
from ballonet.units import BALLOON_PAGE_BYTES

__all__ = ["Convergence"]

_THROTTLE_FIRST, _THROTTLE_STEP, _THROTTLE_MAX = 20, 10, 99
#: A pass that leaves more than this share of what it had to send has not brought the end nearer.
_SLOW_SHARE: Final = 0.5
_SLOW_PASSES: Final = 2
#: Sent at once before the limit of the bandwidth is looked at.
_BURST_NS: Final = 20_000_000


class Convergence:
    """One migration on its way to the end."""

    def __init__(self, settings: MigrationSettings, clock: Clock) -> None:
        self._settings, self._clock = settings, clock
        self._begun_ns = clock.now_ns()
        self._sent_bytes = self._sending_ns = 0
        self._allowed_from_ns = self._begun_ns  # the bandwidth's budget counts from here
        self._slow_passes = 0
        self.state_ns = 0  #: what stopping and sending the state take besides; by whoever knows
        self.throttle_percent = 0  #: of its time that the guest is to stand still
        self.dirty_bytes_per_s = 0.0  #: written by the guest during the last pass

    def sent(self, sent_bytes: int, ns: int) -> int:
        """So much was sent within so long; returns how long to wait before more is."""
        self._sent_bytes += sent_bytes
        self._sending_ns += ns
        limit = self._settings.bandwidth_bytes_per_s
        if limit is None:
            return 0
        now_ns = self._clock.now_ns()
        spent_ns = sent_bytes * NS_PER_S // limit
        self._allowed_from_ns = max(self._allowed_from_ns, now_ns - _BURST_NS) + spent_ns
        return max(0, self._allowed_from_ns - now_ns)

    @property
    def bytes_per_s(self) -> float:
        """What the channel takes when nothing holds it up; 0: not known yet."""
        return self._sent_bytes * NS_PER_S / self._sending_ns if self._sending_ns else 0.0

    def downtime_ns(self, pages: int) -> int | None:
        """How long the guest would stand still if it were stopped now; None: not known yet."""
        if not self._sending_ns:
            return None if pages else self.state_ns
        return int(pages * BALLOON_PAGE_BYTES * NS_PER_S / self.bytes_per_s) + self.state_ns

    def eta_ns(self, pages: int) -> int | None:
        """Until the stop, at the rates of now; None: not known, or never."""
        pace = self.bytes_per_s
        if self._settings.bandwidth_bytes_per_s is not None:
            pace = min(pace, self._settings.bandwidth_bytes_per_s)
        pace -= self.dirty_bytes_per_s
        return int(pages * BALLOON_PAGE_BYTES * NS_PER_S / pace) if pace > 0 else None

    def passed(self, had_pages: int, dirty_pages: int, pass_ns: int) -> None:
        """A pass over `had_pages` is over, and so many were written meanwhile."""
        self.dirty_bytes_per_s = dirty_pages * BALLOON_PAGE_BYTES * NS_PER_S / max(1, pass_ns)
        is_slow = dirty_pages > had_pages * _SLOW_SHARE
        self._slow_passes = self._slow_passes + 1 if is_slow else 0
        if self._settings.throttles and self._slow_passes >= _SLOW_PASSES:
            self._slow_passes = 0
            more = self.throttle_percent + _THROTTLE_STEP
            self.throttle_percent = min(max(more, _THROTTLE_FIRST), _THROTTLE_MAX)

    def may_stop(self, pages: int) -> bool:
        """Stopping the guest now costs no more than was asked for, or there is no more time.

        Raises: MigrationError, if time is over and the migration is not to be forced.
        """
        expected_ns = self.downtime_ns(pages)
        if expected_ns is not None and expected_ns <= self._settings.downtime_ns:
            return True
        return self.is_overdue()

    def is_overdue(self) -> bool:
        """Time is over, and the guest is to be stopped all the same.

        Raises: MigrationError, if time is over and the migration is to be given up.
        """
        timeout_ns = self._settings.timeout_ns
        if timeout_ns is None or self._clock.now_ns() - self._begun_ns < timeout_ns:
            return False
        if self._settings.on_timeout is not OnTimeout.CANCEL:
            return True
        raise MigrationError(
            f"not done after {timeout_ns / NS_PER_S:g} s: the guest writes"
            f" {self.dirty_bytes_per_s / 2**20:.0f} MiB/s and"
            f" {self.bytes_per_s / 2**20:.0f} MiB/s can be sent"
        )
