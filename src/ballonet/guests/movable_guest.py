"""The embedded guest as a machine that can be moved: how it is watched, stopped and written down.

To stop it takes three steps: the guest's tasks come to rest, which needs the device; then the
device stops at every ring; then nobody writes.  The way back is the other way round.
Not here: who asks for it (migration_source.py).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

from ballonet.errors import BallonetError, MigrationError, UsageError
from ballonet.guests.embedded import EmbeddedMachine
from ballonet.migration.tracking import GuestSideTracking

__all__ = ["DEVICE", "MovableGuest", "Stopped"]

DEVICE = "device"

#: Told why a guest does not stop; None: it has.
Stopped = Callable[[BallonetError | None], None]


class MovableGuest:
    """A `MovableMachine`; for the thread of its loop."""

    def __init__(self, machine: EmbeddedMachine) -> None:
        self._machine = machine
        self._tracking = GuestSideTracking(machine.memory.view)
        self.is_paused = False  #: by its operator
        self.is_moving_on = False  #: it stands still to move, or is on its way to that
        self._has_stopped_rings = False
        self._stopped: Stopped | None = None  # to be told when all rest
        self.deadline_ns: int | None = None  #: when a guest that does not rest goes on
        machine.companions.append(self)

    def work(self) -> bool:
        """See whether a guest that is to rest does, or does not in time; never has more to do."""
        stopped = self._stopped
        if stopped is None:
            return False
        if self._machine.is_frozen:
            self._stopped = self.deadline_ns = None
            stopped(None)
        elif self.deadline_ns is not None and time.monotonic_ns() >= self.deadline_ns:
            names = ", ".join(self._machine.scheduler.restless)
            self._stopped, self.is_paused, self.is_moving_on = None, False, False
            self._go_on()
            stopped(MigrationError(f"the guest does not come to rest: {names}"))
        return False

    def facts(self) -> dict[str, int]:
        """Where an engine finds the guest."""
        return {
            "pid": os.getpid(),
            "address": self._tracking.address,
            "size": self._tracking.size,
            "memory_fd": self._machine.memory.fd,
        }

    def start_tracking(self) -> Iterator[None]:
        """Have writes seen, those of the device first. Raises: BallonetError."""
        self._machine.front_end.migration.start_log()
        yield from self._tracking.start()

    def stop_tracking(self) -> None:
        """Have them unseen again; safe to call again."""
        self._tracking.close()
        self._machine.front_end.migration.stop_log()

    def take_device_log(self) -> bytes:
        """Pages the device has written since the last time: ascending, each a u64."""
        return self._machine.front_end.migration.take_log().astype("<u8").tobytes()

    def throttle(self, percent: int) -> None:
        """Let the guest stand still for a part of its time."""
        self._machine.throttle_percent = percent

    def pause(self, stopped: Stopped, timeout_s: float) -> None:
        """Let the guest come to rest; `stopped` is told when it has, or why it does not.

        It stays so until `unpause`, whatever becomes of a move.
        Raises: UsageError, if it is on its way to rest already.
        """
        self._come_to_rest(stopped, timeout_s)
        self.is_paused = True

    def unpause(self) -> None:
        """Let it go on; one that is about to move does so if it stays."""
        self.is_paused = False
        self._go_on()

    def arrive_paused(self) -> None:
        """A guest that was restored stands still from the start."""
        self.is_paused = True
        self._machine.freeze()

    def stop(self, stopped: Stopped, timeout_s: float) -> None:
        """Let guest and device stop, for a move.

        Raises: UsageError, if the guest is on its way to rest already.
        """

        def rests(error: BallonetError | None) -> None:
            stopped(self._stop_rings() if error is None else error)

        if self._machine.is_frozen:  # by its operator
            self.is_moving_on = True
            rests(None)
        else:
            self._come_to_rest(rests, timeout_s)
            self.is_moving_on = True

    def resume(self) -> None:
        """Let both go on, wherever they are: there is no move. One that was paused stays so.

        Raises: BallonetError, if the device refuses; the guest goes on without it.
        """
        self.is_moving_on = False
        try:
            if self._has_stopped_rings:
                self._has_stopped_rings = False
                self._machine.front_end.migration.start_rings()
        finally:
            self._go_on()

    def save_states(self) -> dict[str, bytes]:
        """What kernel, driver and device are besides memory. Raises: BallonetError."""
        device = self._machine.front_end.migration.save_state()
        return {**self._machine.save_state(), DEVICE: device}

    def device_memory(self) -> list[tuple[int, int]]:
        """What the device reads and writes: rings and the driver's buffers."""
        return self._machine.driver.memory

    def _come_to_rest(self, stopped: Stopped, timeout_s: float) -> None:
        """Raises: UsageError, if that is asked for already."""
        if self._stopped is not None:
            raise UsageError("the guest is being stopped already")
        self._stopped = stopped
        self.deadline_ns = time.monotonic_ns() + int(timeout_s * 1e9)
        self._machine.freeze()

    def _go_on(self) -> None:
        """Unless somebody wants it to stand still."""
        if self.is_paused or self.is_moving_on:
            return
        stopped, self._stopped, self.deadline_ns = self._stopped, None, None
        self._machine.thaw()
        if stopped is not None:
            stopped(MigrationError("the guest goes on before it has come to rest"))

    def _stop_rings(self) -> BallonetError | None:
        """Why they cannot be stopped; the guest goes on then."""
        self._has_stopped_rings = True  # or some of them
        try:
            self._machine.front_end.migration.stop_rings()
        except BallonetError as error:
            with suppress(BallonetError):  # what it says first counts
                self.resume()
            return error
        return None
