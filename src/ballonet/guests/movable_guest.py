"""The embedded guest as a machine that can be moved: how it is watched, stopped and written down.

To stop it takes three steps: the guest's tasks come to rest, which needs the device; then the
device stops at every ring; then nobody writes.  The way back is the other way round.
Not here: who asks for it (migration_source.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from ballonet.errors import BallonetError
from ballonet.guests.embedded import EmbeddedMachine
from ballonet.migration.tracking import GuestSideTracking

__all__ = ["MovableGuest"]

DEVICE = "device"


class MovableGuest:
    """A `MovableMachine`; for the thread of its loop."""

    def __init__(self, machine: EmbeddedMachine) -> None:
        self._machine = machine
        self._tracking = GuestSideTracking(machine.memory.view)
        self._has_frozen = self._has_stopped_rings = False

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

    def stop(self, stopped: Callable[[BallonetError | None], None], timeout_s: float) -> None:
        """Stop guest and device; `stopped` is told when they have, or why they do not."""

        def frozen(error: BallonetError | None) -> None:
            stopped(self._stop_rings() if error is None else error)

        if self._machine.scheduler.is_frozen:  # by its operator, and stays so if it does not move
            frozen(None)
        else:
            self._has_frozen = True
            self._machine.freeze(frozen, timeout_s)

    def resume(self) -> None:
        """Let both go on. Raises: BallonetError, if the device refuses."""
        if self._has_stopped_rings:
            self._has_stopped_rings = False
            self._machine.front_end.migration.start_rings()
        if self._has_frozen:
            self._has_frozen = False
            self._machine.thaw()

    def save_states(self) -> dict[str, bytes]:
        """What kernel, driver and device are besides memory. Raises: BallonetError."""
        device = self._machine.front_end.migration.save_state()
        return {**self._machine.save_state(), DEVICE: device}

    def _stop_rings(self) -> BallonetError | None:
        """Why they cannot be stopped; the guest goes on then."""
        try:
            self._machine.front_end.migration.stop_rings()
        except BallonetError as error:
            self.resume()
            return error
        self._has_stopped_rings = True
        return None
