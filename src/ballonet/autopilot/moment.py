"""Of a round, what matters to every VM.

Units: seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

from ballonet.autopilot.constants import Constants

__all__ = ["Moment"]


@dataclass(frozen=True, slots=True)
class Moment:
    """When it is, and by which rules."""

    now_s: float  #: by the law's own clock, which never goes back
    period_s: float
    is_first: bool  #: of this autopilot: who is here has been here before
    is_dry_run: bool
    constants: Constants

    @property
    def stale_s(self) -> float:
        """An answer older than this is of no use."""
        return max(self.constants.stale_s, self.constants.stale_periods * self.period_s)

    @property
    def fresh_s(self) -> float:
        """Memory is taken by answers that are no older."""
        return max(self.constants.fresh_s, self.constants.stale_periods * self.period_s)
