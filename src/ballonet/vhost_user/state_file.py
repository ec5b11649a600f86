"""A device's state in a file, so that another process can go on where this one stopped.

Neither a file that holds something else nor a disk that is full stops the device: it says so once
in a while, and serves on.
"""

from __future__ import annotations

import errno
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ballonet.balloon.clock import NS_PER_S, Clock
from ballonet.device.state import DeviceState
from ballonet.errors import SettingsError, SystemCallError
from ballonet.runtime.files import put_aside, read_small, write_whole
from ballonet.runtime.quiet_log import QuietLog

__all__ = ["StateFile"]

#: The guest moves `actual` hundreds of times a second; a little of it may be lost.
_WAIT_NS: Final = 200_000_000
#: A write lasts until the disk has it, and nobody is served meanwhile: the pause is so many times
#: as long, so that a slow disk takes 5 % of the time at most.
_WAIT_FACTOR: Final = 20
#: After a write that failed, doubled each time.
_RETRY_NS_MIN: Final = NS_PER_S
_RETRY_NS_MAX: Final = 60 * NS_PER_S
_REASON_MAX: Final = 200  # characters
_log = logging.getLogger(__name__)


class StateFile:
    """One file, kept up to date."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path, self._clock = path, clock
        self._quiet = QuietLog(_log, clock.now_ns)
        self._saved: DeviceState | None = None
        self._wait_until_ns = 0  # a change of anything but the target can wait so long
        self._retry_at_ns = 0  # before, nothing is tried: the last write failed
        self._retry_ns = _RETRY_NS_MIN
        self.deadline_ns: int | None = None  #: when a change has to be written

    def load(self) -> DeviceState | None:
        """What an earlier process left, or None; what is no state is put aside, and that is logged.

        Raises: SettingsError, if the path names something other than a readable file;
        SystemCallError, if what is no state cannot be put aside.
        """
        try:
            self._saved = self._read()
        except SystemCallError as error:
            raise SettingsError("--state-file", self._path, f"readable: {error.reason}") from error
        except (ValueError, RecursionError) as error:  # JSON may be nested too deeply to be read
            reason = (str(error) or "cannot be read")[:_REASON_MAX]
            aside = put_aside(self._path)
            _log.warning("no state in %s, kept as %s: %s", self._path, aside.name, reason)
        return self._saved

    def begin(self, state: DeviceState) -> None:
        """Write the first state. Raises: SystemCallError, unless the disk is merely full."""
        try:
            self._write(state)
        except SystemCallError as error:
            if not _is_full(error):
                raise
            self._failed(error)

    def look(self, target_pages: int, now_ns: int, state: Callable[[], DeviceState]) -> None:
        """The state may have changed: write it, at once if the target changed, else soon.

        Asked for with every message, so nothing is put together while nothing may be written.
        """
        is_settled = self._saved is not None and self._saved.target_pages == target_pages
        if is_settled and now_ns < self._wait_until_ns:
            self.deadline_ns = self._wait_until_ns
        else:
            self.note(state())

    def note(self, state: DeviceState) -> None:
        """Write a state, at once if the target changed, else soon; a failure is logged."""
        if state == self._saved:
            self.deadline_ns = None
            return
        is_urgent = self._saved is None or state.target_pages != self._saved.target_pages
        not_before_ns = max(self._retry_at_ns, 0 if is_urgent else self._wait_until_ns)
        if self._clock.now_ns() < not_before_ns:
            self.deadline_ns = not_before_ns
        else:
            self.save(state)

    def save(self, state: DeviceState) -> None:
        """Write a state now; a failure is logged, and `deadline_ns` says when to try again."""
        try:
            self._write(state)
        except SystemCallError as error:
            self._failed(error)

    def _read(self) -> DeviceState | None:
        """Raises: SystemCallError; ValueError, RecursionError for what is no state."""
        raw = read_small(self._path)
        if raw is None:
            return None
        if not raw.strip():  # as a crash leaves it on some file systems
            _log.warning("%s is empty: starting without state", self._path)
            return None
        return DeviceState.from_fields(json.loads(raw.decode()))

    def _write(self, state: DeviceState) -> None:
        """Raises: SystemCallError."""
        begin_ns = self._clock.now_ns()
        write_whole(self._path, json.dumps(state.as_fields()) + "\n")
        now_ns = self._clock.now_ns()
        self._saved, self.deadline_ns = state, None
        self._wait_until_ns = now_ns + max(_WAIT_NS, _WAIT_FACTOR * (now_ns - begin_ns))
        self._retry_at_ns, self._retry_ns = 0, _RETRY_NS_MIN

    def _failed(self, error: SystemCallError) -> None:
        self._quiet.warn("state", f"{error}; the device serves on, and tries again")
        self._retry_at_ns = self.deadline_ns = self._clock.now_ns() + self._retry_ns
        self._retry_ns = min(2 * self._retry_ns, _RETRY_NS_MAX)


def _is_full(error: SystemCallError) -> bool:
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)
