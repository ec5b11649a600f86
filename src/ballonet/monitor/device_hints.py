"""Free page hints of a device, for a migration that is another program."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import Final, TypeVar

import numpy as np

from ballonet.control.control import HintControl
from ballonet.errors import GuestError

__all__ = ["DeviceHints"]

T = TypeVar("T")

#: For the device's thread, which may be at a long piece of work.
_PATIENCE_S: Final = 10.0


class DeviceHints:
    """A `MonitoredHints`."""

    def __init__(self, control: HintControl) -> None:
        self._control = control

    async def begin(self, lease_s: int) -> int:
        """Ask for hints; returns the round's id. Raises: GuestError, if there is nobody to ask."""
        cmd_id = await _done(self._control.begin(lease_s))
        if cmd_id is None:
            raise GuestError("no driver runs that gives free page hints")
        return cmd_id

    async def take(self, cmd_id: int, runs_max: int) -> dict[str, object]:
        """What was hinted and not taken yet. Raises: GuestError, if another round is present."""
        taken = await _done(self._control.take(cmd_id, runs_max))
        runs = np.stack(taken.runs, axis=1).tolist()
        return {
            "id": taken.cmd_id,
            "state": taken.state.lower(),
            "runs": runs,
            "more": taken.has_more,
        }

    async def stop(self, lease_s: int) -> None:
        """End the round; no hint of it comes after this."""
        await _done(self._control.stop(lease_s))

    async def finish(self) -> None:
        """Let the guest take its pages back."""
        await _done(self._control.finish())


async def _done(answer: Future[T]) -> T:
    """What the device answers. Raises: TimeoutError, UsageError."""
    async with asyncio.timeout(_PATIENCE_S):
        return await asyncio.wrap_future(answer)
