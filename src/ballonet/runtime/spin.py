"""Whether to look again and again, before going to sleep, pays.

A driver that sends message after message answers in far less than it costs to sleep and be woken.
Looking on is a waste where the next message comes much later, as from an emulated guest.  So it is
remembered after how many messages the next came in time, whether that was slept through or not, and
as long as enough did, every chance is used.
Measured: behind an emulated guest, which sends a message every 7 ms, looking on each time cost a
third of the device's processor time, and gained nothing.  Passing chances by, ever more of them
after each one that brought nothing, made a guest with messages 0.3 to 0.6 ms apart wait a third
longer, and saved no processor time: going to sleep and being woken costs as much.
Units: nanoseconds; time is handed in.
"""

from __future__ import annotations

from typing import Final

__all__ = ["Spin"]

#: How long it goes on: a driver at work answers in less.
SPIN_NS: Final = 500_000
#: Two looks that follow each other are a few microseconds apart, unless somebody else ran.
PREEMPTED_NS: Final = 100_000
#: The least share of messages that must be followed in time; what looking on in vain costs is about
#: what four sleeps cost.
_SHARE_MIN: Final = 0.25
_WEIGHT: Final = 0.125  # of the newest: a driver that begins anew is known within a few messages


class Spin:
    """The looks of one loop."""

    def __init__(self) -> None:
        self._share = 1.0  # of messages that were followed in time
        self._served_ns: int | None = None
        self._until_ns: int | None = None
        self._looked_ns: int | None = None

    def expect_more(self, now_ns: int) -> None:
        """A message was served just now, and will be followed by another at once.

        What else comes meanwhile, as accesses to the configuration do, does not end the looking.
        """
        if self._served_ns is not None:
            was_in_time = now_ns - self._served_ns < SPIN_NS
            self._share += (was_in_time - self._share) * _WEIGHT
        self._served_ns, self._looked_ns = now_ns, None
        self._until_ns = now_ns + SPIN_NS if self._share > _SHARE_MIN else None

    def looks_on(self, now_ns: int) -> bool:
        """Look now without sleeping; to be asked before each look."""
        if self._until_ns is None:
            return False
        looked_ns, self._looked_ns = self._looked_ns, now_ns
        was_preempted = looked_ns is not None and now_ns - looked_ns > PREEMPTED_NS
        if was_preempted or now_ns >= self._until_ns:
            self._until_ns = None  # the processor is somebody else's, or it has lasted too long
        return self._until_ns is not None

    def worked(self) -> None:
        """The time since the last look was our own: nobody else has run."""
        self._looked_ns = None
