"""A device's state in a file, so that another process can go on where this one stopped.

Written whole, under another name, and then renamed: a reader sees the old one or the new one.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from ballonet.device.clock import Clock
from ballonet.device.state import DeviceState
from ballonet.errors import SettingsError, SystemCallError

__all__ = ["StateFile", "write_whole"]

#: The guest moves `actual` hundreds of times a second; a little of it may be lost.
_WAIT_NS: Final = 200_000_000


class StateFile:
    """One file, kept up to date."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path, self._clock = path, clock
        self._saved: DeviceState | None = None
        self._saved_ns = 0
        self.deadline_ns: int | None = None  #: when a change has to be written

    def load(self) -> DeviceState | None:
        """What an earlier process left; None if there was none. Raises: SettingsError."""
        try:
            text = self._path.read_text()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SettingsError(
                "--state-file", self._path, f"readable: {error.strerror}"
            ) from error
        try:
            self._saved = DeviceState.from_fields(json.loads(text))
        except ValueError as error:
            raise SettingsError("--state-file", self._path, f"a state file: {error}") from error
        return self._saved

    def note(self, state: DeviceState) -> None:
        """Write a state, at once if the target changed, else soon. Raises: SystemCallError."""
        if state == self._saved:
            self.deadline_ns = None
            return
        is_urgent = self._saved is None or state.target_pages != self._saved.target_pages
        if is_urgent or self._clock.now_ns() >= self._saved_ns + _WAIT_NS:
            self.save(state)
        else:
            self.deadline_ns = self._saved_ns + _WAIT_NS

    def save(self, state: DeviceState) -> None:
        """Write a state now. Raises: SystemCallError."""
        write_whole(self._path, json.dumps(state.as_fields()) + "\n")
        self._saved, self._saved_ns, self.deadline_ns = state, self._clock.now_ns(), None


def write_whole(path: Path, text: str) -> None:
    """Put text in place of a file's, all or none of it. Raises: SystemCallError."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(text)
        draft.replace(path)
    except OSError as error:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise SystemCallError("writing", str(path), error.strerror or str(error)) from error
