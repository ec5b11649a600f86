"""Whether to look again and again, before going to sleep, pays.

A driver that sends message after message answers in far less than it costs to sleep and be woken.
Looking on is a waste when the next message comes much later, as from an emulated guest, and worse
where others want the processor, the guest among them: it is taken from them.  So each time that
nothing came, or that the kernel let somebody else run meanwhile, the next chances are passed by:
one, then two, four, and so on.
Measured: behind an emulated guest, which sends a message every 7 ms, looking on each time cost a
third of the device's processor time, and gained nothing.
Units: nanoseconds; time is handed in.
"""

from __future__ import annotations

from typing import Final

__all__ = ["Spin"]

#: How long it goes on: a driver at work answers in less.
SPIN_NS: Final = 500_000
#: Two looks that follow each other are a few microseconds apart, unless somebody else ran.
PREEMPTED_NS: Final = 100_000
_PASSED_BY_MAX: Final = 64


class Spin:
    """The looks of one loop."""

    def __init__(self) -> None:
        self._until_ns: int | None = None
        self._looked_ns: int | None = None
        self._passing_by = 0  # how many chances more
        self._passed_by = 0  # how many the last time

    def expect_more(self, now_ns: int) -> None:
        """What was served just now will be followed by more at once."""
        if self._passing_by:
            self._passing_by -= 1
        else:
            self._until_ns = now_ns + SPIN_NS

    def looks_on(self, now_ns: int) -> bool:
        """Look now without sleeping; to be asked before each look."""
        if self._until_ns is None:
            return False
        looked_ns, self._looked_ns = self._looked_ns, now_ns
        was_preempted = looked_ns is not None and now_ns - looked_ns > PREEMPTED_NS
        if was_preempted or now_ns >= self._until_ns:
            self._end(max(1, min(2 * self._passed_by, _PASSED_BY_MAX)))
            return False
        return True

    def caught(self) -> None:
        """Something was there at a look."""
        if self._until_ns is not None:
            self._end(0)

    def _end(self, pass_by: int) -> None:
        self._until_ns = self._looked_ns = None
        self._passing_by = self._passed_by = pass_by
