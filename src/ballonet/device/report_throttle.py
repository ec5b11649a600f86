"""How fast memory that a driver reports as free is dropped.

A report is answered whatever happens to its pages, because they are lost to the guest until then.
Dropping can be slowed down or switched off while the guest runs: a page dropped too eagerly comes
back with a page fault.
Source: VIRTIO 1.4 5.5.6.7.
"""

from __future__ import annotations

from ballonet.balloon.clock import NS_PER_S, Clock

__all__ = ["ReportThrottle"]


class ReportThrottle:
    """Lets through so many bytes per second; saves up those of one second."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.bytes_per_s: int | None = None  #: None: no limit; 0: nothing passes
        self._credit_bytes = 0
        self._filled_ns = 0

    def set_rate(self, bytes_per_s: int | None) -> None:
        """Change the limit; saving up starts anew, with one second's worth."""
        self.bytes_per_s = bytes_per_s
        self._credit_bytes = bytes_per_s or 0
        self._filled_ns = self._clock.now_ns()

    def admits(self, size_bytes: int) -> bool:
        """Take this many bytes if any credit is left: a report passes whole or not at all.

        One larger than the credit runs into debt, which is paid before the next passes.
        """
        rate = self.bytes_per_s
        if rate is None:
            return True
        now_ns = self._clock.now_ns()
        earned = (now_ns - self._filled_ns) * rate // NS_PER_S
        if earned:
            self._filled_ns = now_ns
            self._credit_bytes = min(rate, self._credit_bytes + earned)
        if self._credit_bytes <= 0:
            return False
        self._credit_bytes -= size_bytes
        return True
