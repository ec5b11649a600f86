"""A statistics sample with its age, and why there may be none."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ballonet.virtio.stats import UNSET, StatsSample

__all__ = ["AgedSample", "StatsDiagnosis", "StatsReading"]


@dataclass(frozen=True, slots=True)
class StatsReading:
    """One sample and when it came."""

    sample: StatsSample
    received_ns: int
    received_wall_s: int
    is_first: bool  #: since the ring started: some old drivers send uninitialised memory first

    @property
    def is_unset(self) -> bool:
        """No value says anything: a Windows guest whose balloon service does not run."""
        values = [*self.sample.values.values(), *self.sample.unknown.values()]
        return bool(values) and all(value == UNSET for value in values)

    @property
    def is_empty(self) -> bool:
        """The buffer had no whole entry: a driver that has no value yet."""
        return not (self.sample.values or self.sample.unknown)


@dataclass(frozen=True, slots=True)
class AgedSample:
    """One sample as it is told to another process, whose clock is another one."""

    sample: StatsSample
    age_ns: int  #: when it is told
    received_wall_s: int
    is_first: bool  #: as in a reading


class StatsDiagnosis(Enum):
    """Why there are statistics, or none."""

    NO_DRIVER = "no driver uses the device"
    NOT_NEGOTIATED = "the driver did not accept STATS_VQ"
    NO_BUFFER = "the driver has not sent a buffer yet"
    NO_ANSWER = "asked, no answer since"
    NO_VALUES = "the driver has sent no values yet"
    ALL_UNSET = "the driver sends no values; on Windows, its balloon service does not run"
    ANSWERED = "the driver answers"
    NOT_IN_PROTOCOL = "VMware's balloon tells nothing about the guest's memory"
    NOT_WANTED = "guests are told that nobody wants their status reports; see --status-report"
