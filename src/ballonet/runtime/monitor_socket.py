"""A monitor's socket for a program that can wait: one command after the other.

QEMU's own client library speaks the protocol.  For a monitor of ours: it obeys whatever it is sent.
Units: seconds.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from qemu.qmp.error import QMPError
from qemu.qmp.legacy import QEMUMonitorProtocol, QMPBadPortError

from ballonet.errors import CommandRefusedError, MonitorError

__all__ = ["MonitorSocket"]

ANSWER_S: Final = 60.0
#: What a monitor raises that cannot be reached, or is gone in the middle of a word.
_LOST: Final = (OSError, EOFError, QMPError, QMPBadPortError)


class MonitorSocket:
    """One connection; it has to be closed."""

    def __init__(self, path: Path) -> None:
        """Connect. Raises: MonitorError."""
        self._path = path
        self._loop = asyncio.new_event_loop()
        self._protocol = _made_on(self._loop, path)
        self._protocol.settimeout(ANSWER_S)
        try:
            self._protocol.connect()
        except _LOST as error:
            self.close()
            raise MonitorError(f"no monitor answers at {path}: {error}") from error

    def execute(self, command: str, **arguments: object) -> Any:  # noqa: ANN401 - JSON
        """What the monitor returns. Raises: MonitorError; CommandRefusedError."""
        message: dict[str, object] = {"execute": command, "arguments": arguments}
        try:
            answer = self._protocol.cmd_obj(message)
        except _LOST as error:
            raise MonitorError(f"the monitor at {self._path} is lost: {error}") from error
        if "error" in answer:
            refused = answer["error"]
            raise CommandRefusedError(command, str(refused["class"]), str(refused["desc"]))
        return answer["return"]

    def close(self) -> None:
        """Leave it; safe to call again."""
        if self._loop.is_closed():
            return
        with suppress(*_LOST):  # whoever serves it may have been killed, and leaving fails then
            self._protocol.close()
        self._loop.close()


def _made_on(loop: asyncio.AbstractEventLoop, path: Path) -> QEMUMonitorProtocol:
    """The library takes its thread's loop, and makes one that nobody closes if there is none."""
    asyncio.set_event_loop(loop)
    try:
        return QEMUMonitorProtocol(str(path))
    finally:
        asyncio.set_event_loop(None)
