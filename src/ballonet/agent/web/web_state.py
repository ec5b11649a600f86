"""What requests are answered from: the newest round, the last hours, what people have asked for.

Units: bytes, seconds.
"""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from ballonet.agent.autopilot.autopilot import Autopilot
from ballonet.agent.labels import vm_names
from ballonet.agent.past import KEYS, Past
from ballonet.agent.round import Round
from ballonet.agent.web.actions import Actions
from ballonet.agent.web.feed import Feed
from ballonet.agent.web.guard import RefusedError
from ballonet.agent.web.routes import History
from ballonet.agent.web.state import Snapshot, VmDetails, details_of, snapshot_of

__all__ = ["WebState"]


class WebState:
    """A taker of rounds; who looks is told of each by `feed`."""

    def __init__(self, autopilot: Autopilot, past: Past, directory: Path, *, may_act: bool) -> None:
        self.feed = Feed()
        self.actions = Actions(autopilot, directory, self._publish)
        self._autopilot, self._past, self._may_act = autopilot, past, may_act
        self._round: Round | None = None

    def take(self, one: Round) -> None:
        """The newest round, which the autopilot has taken already."""
        self._round = one
        self._publish()

    def snapshot(self) -> Snapshot:
        """Raises: RefusedError, before the first round."""
        return snapshot_of(self._known, self._autopilot, may_act=self._may_act)

    def details(self, vm: str) -> VmDetails:
        """Raises: RefusedError."""
        one = self._known
        names = vm_names([found.sighting.who for found in one.found])
        for name, found in zip(names, one.found, strict=True):
            if name == vm:
                return details_of(vm, found, one, self._autopilot)
        raise RefusedError(404, f"no machine is named {vm}")

    def history(self, vm: str | None, seconds: float) -> History:
        """Of one machine, or of all."""
        wanted = None if vm is None else frozenset({vm})
        return History(list(KEYS), self._past.of(wanted, time.time() - seconds))

    @property
    def _known(self) -> Round:
        if self._round is None:
            raise RefusedError(503, "there was no round yet")
        return self._round

    def _publish(self) -> None:
        if self._round is not None:
            self.feed.publish(msgspec.json.encode(self.snapshot()))
