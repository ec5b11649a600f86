"""The hint queue: a round's id, then free blocks of the guest, then STOP.

A chain with something to read carries the driver's word, one with something to write a block; one
with both is read first.
Source: VIRTIO 1.4 5.5.6.5; Linux report_free_page_func; QEMU get_free_page_hints.
"""

from __future__ import annotations

from typing import Final

from ballonet.balloon.counters import Counters
from ballonet.balloon.facts import ChainDone, Observers, PagesHinted, PagesRejected
from ballonet.device.guest_link import GuestLink
from ballonet.device.hint_round import HintRound, HintState
from ballonet.device.poison import PagePoison
from ballonet.errors import RingError
from ballonet.memory.runs import find_pieces
from ballonet.virtio.queues import QueueRole
from ballonet.virtio.ring.chain import Chain, read_pieces

__all__ = ["HintQueue"]

_COMMAND_BYTES: Final = 4


class HintQueue:
    """What comes in over the hint queue of one device."""

    def __init__(
        self,
        link: GuestLink,
        hint_round: HintRound,
        poison: PagePoison,
        counters: Counters,
        observers: Observers,
    ) -> None:
        self._link, self._round, self._poison = link, hint_round, poison
        self._counters, self._observers = counters, observers
        self.big_endian = False  #: messages of a legacy driver of a big-endian guest

    def serve(self, chain: Chain) -> None:
        """Take the driver's command and pages.

        Raises: GuestMemoryError; RingError, if the command has not four bytes.
        """
        if chain.readable:
            self._take_command(chain)
        if not chain.writable:
            return
        if self._round.state is HintState.START and self._poison.allows_discard():
            self._take_pages(chain)
        else:
            self._counters.ignored_hint_pieces += len(chain.writable)

    def _take_command(self, chain: Chain) -> None:
        if chain.readable_bytes != _COMMAND_BYTES:
            raise RingError(f"a hint command of {chain.readable_bytes} bytes, not {_COMMAND_BYTES}")
        before = self._round.state
        raw = read_pieces(self._link.memory, chain.readable)
        self._round.on_command(int.from_bytes(raw, "big" if self.big_endian else "little"))
        if before is not HintState.START and self._round.state is HintState.START:
            self._counters.hint_rounds += 1

    def _take_pages(self, chain: Chain) -> None:
        runs, rejected = find_pieces(chain.writable, self._link.memory.table)
        self._counters.hinted_pages += runs.total_pages
        if rejected:
            self._counters.rejected_pieces += rejected
            self._observers.tell(PagesRejected(QueueRole.HINT, rejected))
        self._observers.tell(PagesHinted(self._round.cmd_id, runs))
        if self._observers.want_details:
            self._observers.tell_detail(ChainDone(QueueRole.HINT, runs.total_pages))
