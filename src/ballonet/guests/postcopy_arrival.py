"""A machine whose guest may go on before its memory is there: what its own process does for that.

Another process has the channel and receives.  It has the machine's memory watched, has it load what
came of the guest besides memory, and says when it may go on; from then on the guest's thread waits
wherever a page is missing, and with it all of this process, its monitor too.
If those that receive are gone while pages are missing, the guest can never go on: it is ended.
Not here: what comes, and in which order (migration/receiving_engine.py).
"""

from __future__ import annotations

import os
import select
from contextlib import ExitStack
from typing import Any, Final

from ballonet.errors import BallonetError, MigrationError
from ballonet.guests.embedded import EmbeddedMachine
from ballonet.guests.engine_process import EngineProcess
from ballonet.guests.movable_guest import DEVICE
from ballonet.migration.channels import Channel
from ballonet.migration.missing import GuestSideMissing
from ballonet.migration.records import Begin
from ballonet.migration.rendezvous import Listener
from ballonet.units import pages_to_bytes

__all__ = ["PostcopyArrival"]

_GONE: Final = "the processes that receive the guest's memory are gone"


class PostcopyArrival:
    """One guest that arrives; for the thread of the machine's loop."""

    def __init__(
        self, machine: EmbeddedMachine, channel: Channel, listener: Listener, begin: Begin
    ) -> None:
        """Hand the channel over after BEGIN. Raises: BallonetError, if this cannot be done here."""
        GuestSideMissing.check()
        self.status = "active"  #: one of QEMU's MigrationStatus
        self.reason: str | None = None  #: why it is interrupted, or has failed
        self.left_pages = 0  #: still to come, as last heard
        self.is_paused = False  #: the guest stood still where it came from
        self._machine = machine
        self._has_gone_on = False
        self._missing: GuestSideMissing | None = None
        self._waiting = ExitStack()
        self._states_fd = os.memfd_create("ballonet-states", os.MFD_CLOEXEC)
        fds = {
            "memory_fd": machine.memory.fd,
            "states_fd": self._states_fd,
            "listener_fd": listener.fileno(),
            "channel_fd": channel.fileno(),
        }
        self._order = {
            **fds,
            "has_checksums": begin.has_checksums,
            "may_postcopy": begin.may_postcopy,
            "migration_id": begin.migration_id,
            "uri": listener.uri,
            "size": machine.memory.size,
        }
        module = "ballonet.migration.receiving_engine"
        self._engine = EngineProcess(module, self._heard, self._lost, list(fds.values()))
        channel.close()  # the source is to notice when the other process hangs up

    @property
    def is_whole(self) -> bool:
        """All of the guest's memory is here."""
        return self.status == "completed"

    def receive(self) -> None:
        """Wait until the guest may go on; it is ours then.

        Raises: MigrationError; the source has it then, and the machine can only be closed.
        """
        while not self._has_gone_on:
            select.select([self._engine.sock], [], [])
            self._engine.hear()
            if self.status == "failed":
                raise MigrationError(str(self.reason))

    def follow(self, waiting: ExitStack) -> None:
        """Hear on the machine's loop how the rest comes; `waiting` is closed when all is here."""
        self._waiting = waiting
        if self.is_whole:
            waiting.close()
        self._engine.watch(self._machine.loop)

    def close(self) -> None:
        """End it; safe to call again."""
        self._engine.end()
        self._waiting.close()
        if self._states_fd >= 0:
            os.close(self._states_fd)
            self._states_fd = -1

    def query(self) -> dict[str, object]:
        """What `query-migrate` answers at the destination."""
        answer: dict[str, object] = {
            "status": self.status,
            "ram": {
                "total": self._machine.memory.size,
                "remaining": pages_to_bytes(self.left_pages),
            },
        }
        return answer if self.reason is None else answer | {"error-desc": self.reason}

    def _heard(self, message: dict[str, Any]) -> None:
        match message.get("ask") or message.get("tell"):
            case "order":
                self._engine.say({"answer": self._order})
            case "watch":
                self._watch()
            case "load":
                self._load(message["sizes"])
            case "go":  # said again by whoever does not know that it was
                self._has_gone_on, self.is_paused = True, bool(message["paused"])
                self._set_status("completed" if self._missing is None else "postcopy-active")
            case "status":
                self.reason = message["reason"]
                self.left_pages = int(message.get("left_pages", 0))
                self._set_status(message["status"])

    def _watch(self) -> None:
        try:
            self._missing = GuestSideMissing(self._machine.memory.view)
        except BallonetError as error:
            self._engine.say({"error": str(error)})
        else:
            self._engine.say({"answer": {"address": self._missing.address}}, fd=self._missing.fd)

    def _load(self, sizes: dict[str, int]) -> None:
        states, at = {}, 0
        for name, size in sizes.items():
            states[name] = os.pread(self._states_fd, size, at)
            at += size
        try:
            device = states.pop(DEVICE)
            self._machine.restore_state(states)
            self._machine.take_device(device)
        except BallonetError as error:
            self._engine.say({"wish": "failed", "reason": str(error)})
        else:
            self._engine.say({"wish": "loaded", "memory": self._machine.driver.memory})

    def _lost(self) -> None:
        self._engine.end()
        if not self.is_whole and self.status != "failed":
            self.reason = _GONE
            self._set_status("failed")

    def _set_status(self, status: str) -> None:
        self.status = status
        if status == "completed":
            self._waiting.close()
            if self._missing is not None:
                self._missing.close()
        elif status == "failed" and self._has_gone_on:
            self._machine.stop()  # and what is missing is waited for until the process has ended
