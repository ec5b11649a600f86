"""The statistics queue, which runs backwards, and the timer that keeps it running.

The device keeps the driver's one buffer, and asks for the next sample by returning it.  With a
poll interval it asks when the interval is over; the driver's answer starts the next interval, so
a driver that never answers is asked once and not again.  Time stands still while the device is
suspended.
Units: seconds for the interval, nanoseconds inside.
Source: VIRTIO 1.4 5.5.6.3; QEMU virtio_balloon_receive_stats, balloon_stats_poll_cb.
"""

from __future__ import annotations

from typing import Final

from ballonet.balloon.clock import NS_PER_S, Clock
from ballonet.balloon.stats_reading import AgedSample, StatsDiagnosis, StatsReading
from ballonet.errors import SettingsError
from ballonet.virtio.stats import parse_stats

__all__ = ["POLL_INTERVAL_S_MAX", "Statistics", "check_poll_interval"]

POLL_INTERVAL_S_MAX: Final = 2**32 - 1


def check_poll_interval(interval_s: int) -> None:
    """Raises: SettingsError, unless it is 0 to 2^32 - 1 seconds, as QEMU has it."""
    if not 0 <= interval_s <= POLL_INTERVAL_S_MAX:
        raise SettingsError("poll interval", interval_s, f"0 to {POLL_INTERVAL_S_MAX} seconds")


class Statistics:
    """The newest sample, the held buffer by its chain's head, and the poll timer."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.reading: StatsReading | None = None
        self.raw = b""  #: the newest buffer, as it came
        self.held: int | None = None
        self.asked_ns: int | None = None  #: since when an answer is awaited
        self.poll_interval_s = 0
        self.deadline_ns: int | None = None  #: when the timer wants to be looked at
        self._left_ns: int | None = None  # of the interval, when the device was suspended
        self._suspended = True
        self._un_popped: tuple[int, bytes] | None = None
        self._is_first = True

    def set_poll_interval(self, interval_s: int) -> None:
        """Ask every so many seconds, at once the first time; 0 ends it and keeps the last sample.

        Raises: SettingsError.
        """
        check_poll_interval(interval_s)
        if interval_s == self.poll_interval_s:
            return
        wait_ns = interval_s * NS_PER_S if self.poll_interval_s else 0
        self.poll_interval_s = interval_s
        self._arm(wait_ns if interval_s else None)

    @property
    def aged_sample(self) -> AgedSample | None:
        """The newest sample, for another device."""
        if self.reading is None:
            return None
        age_ns = max(0, self._clock.now_ns() - self.reading.received_ns)
        return AgedSample(
            self.reading.sample, age_ns, self.reading.received_wall_s, self.reading.is_first
        )

    def take_over(self, aged: AgedSample | None, interval_s: int) -> None:
        """Another device had this sample, and asked so often: ask anew after an interval.

        Raises: SettingsError.
        """
        self.set_poll_interval(0)
        self.set_poll_interval(interval_s)
        self.reading = None
        if aged is not None:
            received_ns = self._clock.now_ns() - aged.age_ns
            self.reading = StatsReading(
                aged.sample, received_ns, aged.received_wall_s, aged.is_first
            )

    def suspend(self) -> None:
        """Time stands still from now on; safe to call again."""
        if self._suspended:
            return
        now_ns = self._clock.now_ns()
        self._left_ns = None if self.deadline_ns is None else max(0, self.deadline_ns - now_ns)
        self.deadline_ns = None
        self._suspended = True

    def expect_first(self) -> None:
        """The rings stopped: the next buffer is the first of whoever starts them."""
        self._is_first = True

    def resume(self) -> None:
        """Time goes on; a question asked before may be lost, so its interval starts anew.

        Safe to call again.
        """
        if not self._suspended:
            return
        self._suspended = False
        if self.poll_interval_s:
            interval_ns = self.poll_interval_s * NS_PER_S
            self._arm(interval_ns if self._left_ns is None else self._left_ns)

    def expired(self) -> bool:
        """The interval is over: True if the held buffer is to be returned now."""
        if self.deadline_ns is None or self._clock.now_ns() < self.deadline_ns:
            return False
        # Armed again even if the question goes out: `take_held` disarms it.
        self._arm(self.poll_interval_s * NS_PER_S)
        return self.held is not None

    def receive(self, head: int, raw: bytes, *, legacy: bool, big_endian: bool) -> None:
        """Keep a buffer; the one kept before must have been taken.

        The same buffer popped again after a stop is no new answer, and a legacy driver may send
        uninitialised memory first [VIRTIO 1.4 5.5.6.3.2].
        """
        is_first, self._is_first = self._is_first, False
        again, self._un_popped = self._un_popped == (head, raw), None
        self.held, self.raw = head, raw
        if self.poll_interval_s:
            self._arm(self.poll_interval_s * NS_PER_S)
        if again or (legacy and is_first):
            return
        self.asked_ns = None
        sample = parse_stats(raw, big_endian=big_endian)
        now_ns, wall_s = self._clock.now_ns(), self._clock.wall_s()
        self.reading = StatsReading(sample, now_ns, wall_s, is_first)

    def ask(self) -> int | None:
        """Give up the held buffer, which is to be returned now: that asks for a sample."""
        head = self.take_held()
        if head is not None:
            self.asked_ns = self._clock.now_ns()
            self.deadline_ns = None
        return head

    def take_held(self) -> int | None:
        """Give up the held buffer without asking for anything."""
        head, self.held = self.held, None
        return head

    def un_pop(self) -> bool:
        """Give up the held buffer to be made available again; True if there is one."""
        head = self.take_held()
        if head is None:
            return False
        self._un_popped = head, self.raw
        return True

    def reset(self) -> None:
        """Virtio reset: whoever comes next has no buffer of ours, and owes no answer."""
        self._un_popped = None
        self.asked_ns = None

    def forget_guest(self) -> None:
        """The guest is gone, and what it said is history."""
        self.reset()
        self.reading = None

    def diagnosis(self, *, negotiated: bool) -> StatsDiagnosis:
        """Why there are statistics, or none."""
        if not negotiated:
            return StatsDiagnosis.NOT_NEGOTIATED
        if self.asked_ns is not None:
            return StatsDiagnosis.NO_ANSWER
        if self.reading is None:
            return StatsDiagnosis.NO_BUFFER
        if self.reading.is_empty:
            return StatsDiagnosis.NO_VALUES
        return StatsDiagnosis.ALL_UNSET if self.reading.is_unset else StatsDiagnosis.ANSWERED

    def _arm(self, wait_ns: int | None) -> None:
        """Set the timer, or what will be left of it after the suspension."""
        if self._suspended:
            self._left_ns = wait_ns
        else:
            self.deadline_ns = None if wait_ns is None else self._clock.now_ns() + wait_ns
