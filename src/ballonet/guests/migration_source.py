"""A machine whose guest moves away: it obeys the engine of its migration, and outlives it.

Theory of operation.  `begin` starts the engine as a process.  The engine asks; each question is
answered on the loop's thread, the one to stop when the guest has come to rest.  When the engine is
gone, whatever it had begun is taken back and the guest goes on here - unless it had asked to hand
the guest over: from then on it may run at the destination, and it must never run twice.  So an
engine that does not hear, for it waits for a destination that does not, may simply be ended.
A guest that has left before its memory waits there for the rest if an engine or its channel is
lost; this machine keeps the memory, and the list of what was to follow, for the next engine.
Not here: what is sent, and in which order (migration), how a guest stops (movable_guest.py).
"""

from __future__ import annotations

import os
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

from ballonet.errors import BallonetError, GuestError, MigrationError
from ballonet.guests.engine_process import EngineProcess
from ballonet.guests.movable_machine import MovableMachine
from ballonet.migration.progress import Progress
from ballonet.runtime.event_loop import Watcher

__all__ = ["MigrationSource"]

#: For a guest that does not come to rest: it goes on, and the migration has failed.
_REST_S: Final = 5.0
_PASSES_KEPT, _STEPS_KEPT = 100, 1000
#: For an engine that is to cancel, and may wait for a destination that does not read.
_CANCEL_NS: Final = 2_000_000_000

_Answer = tuple[dict[str, Any], bytes]
_NOTHING: Final[_Answer] = ({}, b"")
#: What a migration has come to.
_OVER: Final = frozenset({"completed", "failed", "cancelled"})
_FOLLOWED, _PAUSED, _RECOVERING = "postcopy-active", "postcopy-paused", "postcopy-recover"
#: The guest has left, and not all of its memory has.
_SPLIT: Final = frozenset({_FOLLOWED, _PAUSED, _RECOVERING})


class MigrationSource:
    """The migrations of one machine, one after the other."""

    def __init__(
        self,
        machine: MovableMachine,
        watcher: Watcher,
        changed: Callable[[str, dict[str, Any]], None],
    ) -> None:
        """`changed` is told, on the loop's thread, each `status`, `progress` and `pass`."""
        self.status = "none"  #: one of QEMU's MigrationStatus
        self.reason: str | None = None  #: why the last one failed
        self.progress = Progress()
        self.passes: deque[dict[str, Any]] = deque(maxlen=_PASSES_KEPT)  #: the last ones
        self.steps: deque[dict[str, Any]] = deque(maxlen=_STEPS_KEPT)  #: the last ones
        self.is_handed_over = False  #: the guest may run at the destination
        self._machine, self._watcher, self._changed = machine, watcher, changed
        self._engine: EngineProcess | None = None
        self._order: dict[str, Any] = {}
        # For the list of what follows a guest.
        self._missing_fd = os.memfd_create("ballonet-missing", os.MFD_CLOEXEC)
        self._protecting: Iterator[None] | None = None
        self._has_stopped = False
        self.deadline_ns: int | None = None  #: when an engine that is to cancel is ended

    @property
    def is_active(self) -> bool:
        """One is under way."""
        return self._engine is not None and self.status not in (*_OVER, _PAUSED)

    def begin(self, order: Mapping[str, Any]) -> None:
        """Start an engine with its order. Raises: MigrationError."""
        if self.is_active:
            raise MigrationError("There's a migration process in progress")
        if self.is_handed_over:
            raise MigrationError("the guest has moved already")
        self._order = {
            **order,
            **self._machine.facts(),
            "missing_fd": self._missing_fd,
            "migration_id": secrets.randbits(63),
            "resume": False,
        }
        self.progress = Progress()
        self.passes.clear()
        self.steps.clear()
        self._start("setup")

    def resume(self, order: Mapping[str, Any]) -> None:
        """Start another engine for a guest that waits for the rest; the order says what is new.

        Raises: MigrationError.
        """
        if self.is_active:
            raise MigrationError("There's a migration process in progress")
        if self.status != _PAUSED:
            raise MigrationError("there is no migration that waits to be resumed")
        self._order |= {
            **order,
            "resume": True,
            "paused": self._machine.is_paused,
            "progress": self.progress.as_fields(),
        }
        self._start(_RECOVERING)

    def wish(self, what: str) -> None:
        """Tell the engine to `cancel`, or that the guest is to go now, by `postcopy`.

        A guest that was handed over is not called back.
        Raises: MigrationError, if its memory follows it.
        """
        if self.status in _SPLIT:
            raise MigrationError("the guest has gone in post-copy: its memory can only follow it")
        if self._engine is None or not self.is_active or self.is_handed_over:
            return
        if what == "cancel":
            self._set_status("cancelling")
            self.deadline_ns = time.monotonic_ns() + _CANCEL_NS
        self._engine.say({"wish": what})

    def take_back(self) -> None:
        """Let a guest go on here that was handed over: its operator knows that it runs nowhere.

        Raises: GuestError, if it has arrived, or is still on its way; BallonetError.
        """
        if self.status != "failed":
            raise GuestError("the guest has moved: it may run at the destination")
        self.is_handed_over = False
        self._resume()

    def work(self) -> bool:
        """A step of what takes longer; True if there is more to do."""
        if self.deadline_ns is not None and time.monotonic_ns() >= self.deadline_ns:
            self._engine_is_lost()
        if self._protecting is not None:
            try:
                next(self._protecting)
            except StopIteration:
                self._protecting = None
                self._say({"answer": {}})
            except BallonetError as error:
                self._protecting = None
                self._say({"error": str(error)})
        return self._protecting is not None

    def close(self) -> None:
        """End the engine, but not one that serves a guest that has left: it ends when all has.

        Safe to call again.
        """
        engine, self._engine, self.deadline_ns = self._engine, None, None
        if engine is not None:
            if self.status == _FOLLOWED:
                engine.hang_up()
            else:
                engine.end()
        if self._missing_fd >= 0:
            os.close(self._missing_fd)
            self._missing_fd = -1

    def _start(self, status: str) -> None:
        """Raises: SystemCallError."""
        if self._engine is not None:  # that has told all, and only has to end
            self._engine_is_lost()
        engine = EngineProcess("ballonet.migration.engine", self._obey, self._engine_is_lost)
        self._engine, self.reason = engine, None
        engine.watch(self._watcher)
        self._set_status(status)

    def _obey(self, message: dict[str, Any]) -> None:
        if "tell" in message:
            self._hear(message)
            return
        match message["ask"]:
            case "start_tracking":
                self._protecting = self._machine.start_tracking()
            case "stop_guest":
                self._stop()
            case name:
                self._answer(lambda: self._do(name, message))

    def _do(self, name: str, message: dict[str, Any]) -> _Answer:
        """What is done at once. Raises: BallonetError."""
        match name:
            case "order":
                return self._order, b""
            case "device_log":
                return {}, self._machine.take_device_log()
            case "stop_tracking":
                self._machine.stop_tracking()
            case "throttle":
                self._machine.throttle(int(message["percent"]))
            case "resume_guest":
                self._resume()
            case "state":
                return self._save_states()
            case "device_memory":
                return {"memory": self._machine.device_memory()}, b""
            case "hand_over":
                self.is_handed_over, self.deadline_ns = True, None
                if message.get("postcopy"):
                    self._set_status(_FOLLOWED)
                return {"paused": self._machine.is_paused}, b""
        return _NOTHING

    def _hear(self, message: dict[str, Any]) -> None:
        match message.pop("tell"):
            case "progress":
                self.progress = Progress(**message["progress"])
                if self.status == "setup":
                    self._set_status("active")
                self._changed("progress", {})
            case "pass":
                self.passes.append(message)
                self._changed("pass", message)
            case "step":
                self.steps.append(message)
            case "status":
                self._ended(message["status"], message["reason"])

    def _ended(self, status: str, reason: str | None) -> None:
        if self.is_handed_over and reason is not None and status not in _SPLIT:
            reason = (
                f"the guest was handed over, whether it arrived is not known: {reason};"
                " `cont` lets it go on here, if it does not run there"
            )
        self.reason = reason
        self._set_status(status)

    def _stop(self) -> None:
        self._has_stopped = True
        try:
            self._machine.stop(self._stopped, _REST_S)
        except BallonetError as error:
            self._stopped(error)

    def _stopped(self, error: BallonetError | None) -> None:
        if error is None:
            self._say({"answer": {}})
        else:
            self._has_stopped = False
            self._say({"error": str(error)})

    def _answer(self, action: Callable[[], _Answer]) -> None:
        try:
            answer, raw = action()
        except BallonetError as error:
            self._say({"error": str(error)})
        else:
            self._say({"answer": answer}, raw)

    def _say(self, message: dict[str, Any], raw: bytes = b"") -> None:
        if self._engine is not None:
            self._engine.say(message, raw)

    def _save_states(self) -> _Answer:
        states = self._machine.save_states()
        sizes = {name: len(raw) for name, raw in states.items()}
        return {"sizes": sizes}, b"".join(states.values())

    def _resume(self) -> None:
        """Let the guest go on here. Raises: BallonetError."""
        if self.is_handed_over:
            raise GuestError("the guest may run at the destination")
        if self._has_stopped:
            self._has_stopped = False
            self._machine.resume()

    def _engine_is_lost(self) -> None:
        """Take back what it had begun; it has ended, or is ended here."""
        engine, self._engine, self.deadline_ns = self._engine, None, None
        if engine is not None:
            engine.end(0)
        self._protecting = None
        self._machine.throttle(0)
        with suppress(BallonetError):  # what the device refuses is its own trouble
            self._machine.stop_tracking()
        if self.status in _SPLIT:
            self._ended(_PAUSED, self.reason or "the engine of the migration is gone")
            return
        if self.is_handed_over:
            if self.status not in _OVER:
                self._ended("failed", "the engine of the migration is gone")
            return
        with suppress(BallonetError):  # a device that is away is waited for by the guest
            self._resume()
        if self.status not in _OVER:
            is_cancelled = self.status == "cancelling"
            reason = None if is_cancelled else "the engine of the migration is gone"
            self._ended("cancelled" if is_cancelled else "failed", reason)

    def _set_status(self, status: str) -> None:
        if status != self.status:
            self.status = status
            self._changed("status", {"status": status})
