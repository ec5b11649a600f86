"""A plain QMP client.

Part of the test peer, which shares no code with the package under test.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

from tests.support.programs import connected


class QmpClient:
    """A plain QMP client; a context manager. It waits until somebody listens."""

    def __init__(self, path: Path) -> None:
        self.socket = connected(path)
        self._file = self.socket.makefile("rb")
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self.socket.close()

    def line(self) -> Any:  # noqa: ANN401 - JSON
        """The next message, or None at the end."""
        raw = self._file.readline()
        return json.loads(raw) if raw else None

    def ask(self, command: str, **arguments: object) -> Any:  # noqa: ANN401 - JSON
        """A command's reply; events on the way are kept."""
        self.socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
        while True:
            message = self.line()
            if message is None or "event" not in message:
                return message
            self.events.append(message)

    def negotiate(self) -> QmpClient:
        """Get into command mode."""
        assert "QMP" in self.line()
        assert self.ask("qmp_capabilities") == {"return": {}}
        return self

    def wait_for(self, event: str) -> dict[str, Any]:
        """The next event of a kind."""
        while True:
            message = self.line()
            assert message is not None, f"no {event} came"
            if message.get("event") == event:
                return dict(message)
