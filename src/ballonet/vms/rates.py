"""How fast a machine's counters grow, by its samples of two moments.

Unknown, and never a guess, where the same sample is seen again, where nobody tells how much time
lies between, and after a reset: a counter that fell is another kernel's, or another device's, and
so is every other of that sample.
Units: what the counter counts, a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from ballonet.vms.observation import Observation

__all__ = ["LEVELS", "Rates", "Sample", "rates_between"]

#: Statistics that say what is now; the others count since the guest's boot.
LEVELS: Final = frozenset({"memfree", "memtot", "avail", "caches"})
#: QEMU tells the time of a sample in whole seconds: over so many a rate is a fifth off at most.
_GUEST_SPAN_S: Final = 5.0
#: Of our own device's counters the moment is known exactly.
_DEVICE_SPAN_S: Final = 1.0


class Sample(NamedTuple):
    """Counters of one moment, by name."""

    at_s: float
    values: Mapping[str, int]


def rates_between(before: Sample, after: Sample) -> dict[str, float]:
    """What each counter has gained a second; empty, where that cannot be known."""
    span_s = after.at_s - before.at_s
    if span_s <= 0 or _is_reset(before, after):
        return {}
    return {
        name: (value - before.values[name]) / span_s
        for name, value in after.values.items()
        if name in before.values and name not in LEVELS
    }


class Rates:
    """Of one machine; `see` each of its observations."""

    def __init__(self) -> None:
        self._guest, self._device = _Samples(_GUEST_SPAN_S), _Samples(_DEVICE_SPAN_S)

    def see(self, look: Observation) -> None:
        """Note what it tells."""
        values = {name: one.value for name, one in look.statistics.items()}
        if values and look.stats_last_update_s is not None:
            self._guest.add(Sample(look.stats_last_update_s, values))
        if look.device is not None:
            self._device.add(Sample(look.at_s, look.device.counters))

    @property
    def guest(self) -> Mapping[str, float]:
        """Of its statistics, by StatRow.name."""
        return self._guest.rates

    @property
    def device(self) -> Mapping[str, float]:
        """Of our device's own counters, by name."""
        return self._device.rates


class _Samples:
    """The newest, and as many before it as a rate needs."""

    def __init__(self, span_s: float) -> None:
        self._span_s = span_s
        self._kept: list[Sample] = []
        self.rates: Mapping[str, float] = {}

    def add(self, sample: Sample) -> None:
        kept = self._kept
        if kept and (sample.at_s < kept[-1].at_s or _is_reset(kept[-1], sample)):
            kept.clear()
        if kept and sample.at_s == kept[-1].at_s:
            kept.pop()  # the same again, or another of the same second
        kept.append(sample)
        while len(kept) > 2 and sample.at_s - kept[1].at_s >= self._span_s:
            kept.pop(0)
        is_long = sample.at_s - kept[0].at_s >= self._span_s
        self.rates = rates_between(kept[0], sample) if is_long else {}


def _is_reset(before: Sample, after: Sample) -> bool:
    return any(
        value < before.values.get(name, 0)
        for name, value in after.values.items()
        if name not in LEVELS
    )
