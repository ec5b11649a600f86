"""A machine that moves away: it obeys the engine of its migration, and outlives it.

Theory of operation.  `begin` starts the engine as a process.  The engine asks; each question is
answered on the loop's thread, the one to stop when the guest has come to rest.  When the engine is
gone, whatever it had begun is taken back and the guest goes on here - unless it had asked to hand
the guest over: from then on it may run at the destination, and it must never run twice.
Not here: what is sent, and in which order (migration).
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final, Protocol

from ballonet.errors import BallonetError, GuestError, MigrationError
from ballonet.migration.link import encode_line
from ballonet.migration.progress import Progress
from ballonet.runtime.event_loop import Watcher

__all__ = ["MigrationSource", "MovableMachine"]

_LINE_MAX: Final = 1 << 20
#: For a guest that does not come to rest: it goes on, and so do the passes.
_REST_NS: Final = 2_000_000_000
_ANSWER_S: Final = 10.0
_END_S: Final = 5.0


class MovableMachine(Protocol):
    """What a machine does for its migration; all of it on its loop's thread."""

    @property
    def is_frozen(self) -> bool:
        """The guest has come to rest."""
        ...

    def freeze(self) -> None:
        """Let the guest come to rest, soon."""
        ...

    def thaw(self) -> None:
        """Let it go on; also if it was not at rest yet."""
        ...

    def stop_rings(self) -> None:
        """The device writes no more. Raises: GuestError."""
        ...

    def start_rings(self) -> None:
        """It goes on where it stopped. Raises: GuestError."""
        ...

    def start_tracking(self) -> dict[str, Any]:
        """Have writes seen; returns where memory and logs are. Raises: MigrationError."""
        ...

    def stop_tracking(self) -> None:
        """Have them unseen again; safe to call again."""
        ...

    def save_states(self) -> dict[str, bytes]:
        """What the guest and its device are besides memory, by name. Raises: GuestError."""
        ...

    def throttle(self, percent: int) -> None:
        """Let the guest stand still for a part of its time."""
        ...


class MigrationSource:
    """The migrations of one machine, one after the other."""

    def __init__(
        self, machine: MovableMachine, watcher: Watcher, changed: Callable[[str], None]
    ) -> None:
        """`changed` is told each new status, on the loop's thread."""
        self.status = "none"  #: one of QEMU's MigrationStatus
        self.reason: str | None = None  #: why the last one failed
        self.progress = Progress()
        self.is_handed_over = False  #: the guest may run at the destination
        self._machine, self._watcher, self._changed = machine, watcher, changed
        self._engine: subprocess.Popen[bytes] | None = None
        self._link: socket.socket | None = None
        self._received = b""
        self._rest_by_ns: int | None = None  # the engine waits for the guest to rest
        self._has_tracking = self._has_stopped = False

    @property
    def is_active(self) -> bool:
        """One is under way."""
        return self._link is not None

    def begin(self, order: Mapping[str, object]) -> None:
        """Start an engine with its order. Raises: MigrationError."""
        if self.is_active:
            raise MigrationError("There's a migration process in progress")
        if self.is_handed_over:
            raise MigrationError("the guest has moved already")
        ours, theirs = socket.socketpair()
        with theirs:
            self._engine = subprocess.Popen(
                [sys.executable, "-m", "ballonet.migration.engine", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        ours.settimeout(_ANSWER_S)
        self._link, self._received, self.reason = ours, b"", None
        self.progress = Progress()
        self._watcher.register(ours.fileno(), self._readable)
        self._say(encode_line({"answer": dict(order)}))
        self._set_status("setup")

    def wish(self, what: str) -> None:
        """Tell the engine to `cancel`, or to go over to `postcopy`."""
        if self._link is not None:
            if what == "cancel":
                self._set_status("cancelling")
            self._say(encode_line({"wish": what}))

    def tick(self) -> None:
        """Answer the engine when the guest has come to rest, or does not."""
        if self._rest_by_ns is None:
            return
        if self._machine.is_frozen:
            self._rest_by_ns = None
            self._answer(self._stop_rings)
        elif time.monotonic_ns() > self._rest_by_ns:
            self._rest_by_ns = None
            self._machine.thaw()
            self._has_stopped = False
            self._say(encode_line({"error": "the guest does not come to rest; try again"}))

    def close(self) -> None:
        """End the engine; safe to call again."""
        if self._link is not None:
            self._hang_up()
        if self._engine is not None:
            try:
                self._engine.wait(_END_S)
            except subprocess.TimeoutExpired:
                self._engine.kill()
                self._engine.wait()
            self._engine = None

    def _readable(self) -> None:
        if self._link is None:
            return
        try:
            data = self._link.recv(1 << 16)
        except OSError:
            data = b""
        if not data or len(self._received) > _LINE_MAX:
            self._engine_is_gone()
            return
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            self._obey(json.loads(line))

    def _obey(self, message: dict[str, Any]) -> None:
        if "tell" in message:
            self._hear(message)
            return
        match message["ask"]:
            case "start_tracking":
                self._has_tracking = True
                self._answer(lambda: (self._machine.start_tracking() | {"pid": os.getpid()}, b""))
            case "stop_tracking":
                self._answer(self._stop_tracking)
            case "throttle":
                percent = int(message["percent"])
                self._answer(lambda: (self._machine.throttle(percent), b"") and ({}, b""))
            case "stop_guest":
                self._has_stopped = True
                self._rest_by_ns = time.monotonic_ns() + _REST_NS
                self._machine.freeze()
                self.tick()
            case "resume_guest":
                self._answer(self._resume)
            case "state":
                self._answer(self._save_states)
            case "hand_over":
                self.is_handed_over = True
                self._answer(lambda: ({}, b""))

    def _hear(self, message: dict[str, Any]) -> None:
        match message["tell"]:
            case "progress":
                self.progress = Progress(**message["progress"])
                if self.status == "setup":
                    self._set_status("active")
            case "pass":
                self._changed("pass")
            case "status":
                self.reason = message.get("reason")
                self._set_status(message["status"])

    def _answer(self, action: Callable[[], tuple[dict[str, Any], bytes]]) -> None:
        try:
            answer, raw = action()
        except BallonetError as error:
            self._say(encode_line({"error": str(error)}))
        else:
            self._say(encode_line({"answer": answer}, raw))

    def _say(self, line: bytes) -> None:
        if self._link is not None:
            with suppress(OSError):  # that it is gone is read, and answered there
                self._link.sendall(line)

    def _stop_rings(self) -> tuple[dict[str, Any], bytes]:
        self._machine.stop_rings()
        return {}, b""

    def _stop_tracking(self) -> tuple[dict[str, Any], bytes]:
        self._has_tracking = False
        self._machine.stop_tracking()
        return {}, b""

    def _save_states(self) -> tuple[dict[str, Any], bytes]:
        states = self._machine.save_states()
        return {"sizes": {name: len(raw) for name, raw in states.items()}}, b"".join(
            states.values()
        )

    def _resume(self) -> tuple[dict[str, Any], bytes]:
        """Let the guest go on here, wherever it was on its way to rest."""
        if self.is_handed_over:
            raise GuestError("the guest may run at the destination")
        self._rest_by_ns = None
        if self._has_stopped:
            self._has_stopped = False
            self._machine.start_rings()
            self._machine.thaw()
        return {}, b""

    def _engine_is_gone(self) -> None:
        """Take back what it had begun."""
        self._hang_up()
        if self.is_handed_over:
            return
        with suppress(GuestError):  # a device that is away is waited for by the guest
            self._resume()
        self._machine.throttle(0)
        if self._has_tracking:
            self._stop_tracking()
        if self.status in ("setup", "active", "cancelling"):
            self.reason = self.reason or "the engine of the migration is gone"
            self._set_status("cancelled" if self.status == "cancelling" else "failed")

    def _hang_up(self) -> None:
        if self._link is not None:
            self._watcher.unregister(self._link.fileno())
            self._link.close()
            self._link = None

    def _set_status(self, status: str) -> None:
        if status != self.status:
            self.status = status
            self._changed(status)
