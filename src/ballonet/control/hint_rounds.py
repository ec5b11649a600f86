"""Rounds of free page hints, as a migration begins and ends them."""

from __future__ import annotations

from concurrent.futures import Future

from ballonet.balloon.facts import Fact, GuestChanged, HintLeaseEnded, HintRoundChanged, PagesHinted
from ballonet.balloon.hinted_pages import RUNS_MAX, HintedPages
from ballonet.control.commands import Commands
from ballonet.control.control import Hints
from ballonet.device.hint_round import HINT_LEASE_S
from ballonet.errors import GuestError
from ballonet.vhost_user.server import DeviceServer

__all__ = ["HintRounds"]


class HintRounds:
    """A `HintControl`; hints come as the facts PagesHinted too, on the device's thread."""

    def __init__(self, server: DeviceServer, commands: Commands) -> None:
        self._loop, self._balloon, self._commands = server.loop, server.balloon, commands
        self._pages = HintedPages()
        self._expired_id: int | None = None  # of a round whose lease ended
        server.balloon.observers.add(self._observe)

    def begin(self, lease_s: float = HINT_LEASE_S) -> Future[int | None]:
        """Ask for hints, right after the dirty log was read; ends an older round.

        The future has the round's id; None: no driver runs, or it gives no hints.
        """
        return self._commands.give("begin hint round", lambda: self._begin(lease_s))

    def take(self, cmd_id: int, runs_max: int = RUNS_MAX) -> Future[Hints]:
        """What was hinted in the present round and not taken yet.

        The future raises GuestError, if the present round is another one.
        """
        return self._loop.put(lambda: self._take(cmd_id, runs_max))

    def stop(self, lease_s: float = HINT_LEASE_S) -> Future[None]:
        """End the round; when this is done no hint of it will come any more."""
        stop = self._balloon.hint_round.stop
        return self._commands.give("stop hint round", lambda: stop(lease_s))

    def finish(self) -> Future[None]:
        """Let the guest take its hinted pages back."""
        return self._commands.give("finish hints", self._balloon.hint_round.done)

    def _begin(self, lease_s: float) -> int | None:
        self._pages.begin(None)
        self._expired_id = None
        cmd_id = self._balloon.begin_hint_round(lease_s)
        self._pages.begin(cmd_id)
        return cmd_id

    def _take(self, cmd_id: int, runs_max: int) -> Hints:
        if cmd_id == self._expired_id:
            raise GuestError(f"the lease of hint round {cmd_id:#x} is over: its pages are in use")
        if cmd_id != self._pages.cmd_id:
            raise GuestError(f"{cmd_id:#x} is not the present hint round")
        self._balloon.hint_round.heard()
        runs = self._pages.take(runs_max)
        return Hints(cmd_id, self._balloon.hint_round.state.name, runs, self._pages.has_more)

    def _observe(self, fact: Fact) -> None:
        match fact:
            case PagesHinted():
                self._pages.add(fact)
            case HintLeaseEnded(cmd_id):
                self._expired_id = cmd_id
            case HintRoundChanged("DONE") | GuestChanged():
                self._pages.begin(None)  # the guest has them back, or is another one
