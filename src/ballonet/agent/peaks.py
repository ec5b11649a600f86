"""What spikes between two scrapes: the least and the most of each guest's last 60 seconds.

A scrape sees one moment in fifteen or sixty seconds; a guest is out of memory for two.  The window
is of time, not of scrapes, so that two scrapers see the same.
Rates are of two samples of the guest one after the other; QEMU tells in whole seconds when they
came, so a rate of two seconds may be half or twice as high.
Units: bytes, seconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from ballonet.vms.discovery import Found
from ballonet.vms.observation import Observation
from ballonet.vms.sighting import Sighting

__all__ = ["PEAKS_WINDOW_S", "PeakWindows", "Peaks"]

PEAKS_WINDOW_S: Final = 60.0
#: Two looks at one sample find its moment so close, by two clocks.
_SAME_SAMPLE_S: Final = 0.25


class Peaks(NamedTuple):
    """Of one guest; None: it is not known."""

    lowest_free_bytes: float | None = None
    lowest_available_bytes: float | None = None
    highest_major_faults_per_s: float | None = None
    highest_swap_in_bytes_per_s: float | None = None


class _Sample(NamedTuple):
    """What one sample says."""

    at_s: float
    values: dict[str, int]
    peaks: Peaks  #: of this sample, and of the time since the one before


class PeakWindows:
    """Is told every round."""

    def __init__(self) -> None:
        self._windows: dict[Sighting, deque[_Sample]] = {}

    def see(self, found: Sequence[Found], now_s: float) -> list[Peaks]:
        """The peaks of each, in their order; those that are gone are forgotten."""
        self._windows = {one.sighting: self._windows.get(one.sighting, deque()) for one in found}
        return [self._of_one(one.observation, self._windows[one.sighting], now_s) for one in found]

    def _of_one(self, look: Observation, window: deque[_Sample], now_s: float) -> Peaks:
        sample = _sample(look, window[-1] if window else None)
        if sample is not None:
            window.append(sample)
        while window and now_s - window[0].at_s > PEAKS_WINDOW_S:
            window.popleft()
        seen = [one.peaks for one in window]
        return Peaks(
            _least(one.lowest_free_bytes for one in seen),
            _least(one.lowest_available_bytes for one in seen),
            _most(one.highest_major_faults_per_s for one in seen),
            _most(one.highest_swap_in_bytes_per_s for one in seen),
        )


def _sample(look: Observation, before: _Sample | None) -> _Sample | None:
    """What a look tells that is new; None: it is the same sample still, or there is none."""
    values = {name: one.value for name, one in look.statistics.items()}
    if not values:
        return None
    free, available = values.get("memfree"), look.available_bytes
    age_s = look.stats_age_s
    if look.device is not None and look.device.stats_age_s is not None:
        age_s = look.device.stats_age_s  # in more than whole seconds
    if age_s is None:  # nor is it known how long a counter took
        return _Sample(look.at_s, values, Peaks(free, available))
    at_s = look.at_s - age_s
    if before is None:
        return _Sample(at_s, values, Peaks(free, available))
    if abs(at_s - before.at_s) < _SAME_SAMPLE_S:
        return None
    rates = _rates(before.values, values, at_s - before.at_s)
    return _Sample(at_s, values, Peaks(free, available, rates.get("majflt"), rates.get("swap_in")))


def _rates(before: dict[str, int], after: dict[str, int], seconds: float) -> dict[str, float]:
    """What the counters have gained in each second; one that fell is another kernel's."""
    if seconds <= 0:
        return {}  # the clock was set
    return {
        name: (after[name] - before[name]) / seconds
        for name in ("majflt", "swap_in")
        if after.get(name, -1) >= before.get(name, 1 << 64)
    }


def _least(values: Iterable[float | None]) -> float | None:
    return min((one for one in values if one is not None), default=None)


def _most(values: Iterable[float | None]) -> float | None:
    return max((one for one in values if one is not None), default=None)
