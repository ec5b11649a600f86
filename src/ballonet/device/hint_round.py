"""Free page hints: the rounds in which a driver names pages a migration need not send.

    state      begin       stop    done   driver's id   driver's other word   its pages
    STOP       REQUESTED   -       DONE   -             -                     ignored
    REQUESTED  REQUESTED   STOP    DONE   START         -                     ignored
    START      REQUESTED   STOP    DONE   STOP          STOP                  hinted
    DONE       REQUESTED   STOP    -      -             -                     ignored

A reset in the middle of rounds is DONE as well; before any it is STOP.

A migration begins a round after each reading of its dirty log and stops it before the next, so a
hint holds only between the two.  The driver keeps the pages it has hinted until it sees DONE;
that is shown on every way out, and when whoever began rounds has not been heard of for the time
of its lease.  Until the driver has confirmed the round's id its words belong to an older round.
Hints are passed on, never acted on here: the driver may use a hinted page again at any time.
Source: VIRTIO 1.4 5.5.6.5; QEMU virtio_balloon_free_page_hint_notify, get_free_page_hints.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import Final

from ballonet.balloon.clock import NS_PER_S, Clock
from ballonet.balloon.facts import HintLeaseEnded, HintRoundChanged, Observers
from ballonet.virtio.hint_ids import CMD_ID_DONE, CMD_ID_MIN, CMD_ID_STOP, next_cmd_id

__all__ = ["HINT_LEASE_S", "HintRound", "HintState"]

#: How long a migration may be silent: far longer than a pass over any guest's memory should be.
HINT_LEASE_S: Final = 600


class HintState(Enum):
    """Where a round stands."""

    STOP = auto()  #: no hints are wanted
    REQUESTED = auto()  #: the driver is asked for hints
    START = auto()  #: the driver has confirmed the id: its pages are hints
    DONE = auto()  #: the driver may take its pages back


class HintRound:
    """The rounds of one device."""

    def __init__(self, clock: Clock, observers: Observers, announce: Callable[[], None]) -> None:
        """`announce`: tell the driver that its configuration has changed."""
        self._clock, self._observers, self._announce = clock, observers, announce
        self.state = HintState.STOP
        self.cmd_id = CMD_ID_MIN  #: of the newest round; the first has the id above
        self.deadline_ns: int | None = None  #: end of the lease
        self._lease_ns = 0

    @property
    def shown_cmd_id(self) -> int:
        """What `free_page_hint_cmd_id` reads as.

        It stays the id while the round runs: a driver that read STOP there, because of a change of
        the target, would end the round early, as it does with QEMU's device.
        """
        match self.state:
            case HintState.STOP:
                return CMD_ID_STOP
            case HintState.DONE:
                return CMD_ID_DONE
            case _:
                return self.cmd_id

    def begin(self, lease_s: float) -> None:
        """Ask for hints under an id that was not used before."""
        self.cmd_id = next_cmd_id(self.cmd_id)
        self._renew(lease_s)
        self._enter(HintState.REQUESTED, tell=True)

    def stop(self, lease_s: float) -> None:
        """End the round; the driver keeps its pages. Nothing it says from now on is a hint."""
        self._renew(lease_s)
        if self.state is not HintState.STOP:
            self._enter(HintState.STOP, tell=True)

    def heard(self) -> None:
        """Whoever began the round is still there: a lease that has not ended begins anew."""
        if self.deadline_ns is not None:
            self.deadline_ns = self._clock.now_ns() + self._lease_ns

    def done(self) -> None:
        """No more rounds: the driver may take its pages back."""
        self.deadline_ns = None
        if self.state is not HintState.DONE:
            self._enter(HintState.DONE, tell=True)

    def go_on_after(self, cmd_id: int) -> None:
        """Another device had rounds up to this id, which are over: its guest has to be told."""
        self.cmd_id = cmd_id
        self.done()

    def end_if_expired(self) -> None:
        """Let the driver have its pages if whoever began rounds was silent for all its lease."""
        if self.deadline_ns is not None and self._clock.now_ns() >= self.deadline_ns:
            self._observers.tell(HintLeaseEnded(self.cmd_id))
            self.done()

    def on_command(self, cmd_id: int) -> None:
        """Take what the driver said: the id of a round, or STOP."""
        if self.state is HintState.REQUESTED and cmd_id == self.cmd_id:
            self._enter(HintState.START, tell=False)
        elif self.state is HintState.START:
            self._enter(HintState.STOP, tell=False)

    def reset(self) -> None:
        """Virtio reset: the driver has forgotten its pages, if it is not a driver that comes again.

        A front-end that connects anew looks the same, and its driver holds what it has hinted: so
        rounds end with DONE here too, about which a driver without pages does nothing.
        """
        if self.state is not HintState.STOP or self.deadline_ns is not None:
            self.done()

    def _renew(self, lease_s: float) -> None:
        self._lease_ns = int(lease_s * NS_PER_S)
        self.deadline_ns = self._clock.now_ns() + self._lease_ns

    def _enter(self, state: HintState, *, tell: bool) -> None:
        self.state = state
        self._observers.tell(HintRoundChanged(state.name, self.cmd_id))
        if tell:
            self._announce()
