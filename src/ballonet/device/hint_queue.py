"""The hint queue: a round's id, then free blocks of the guest, then STOP.

A chain with something to read carries the driver's word, one with something to write a block; one
with both is read first.
Source: VIRTIO 1.4 5.5.6.5; Linux report_free_page_func; QEMU get_free_page_hints.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

from ballonet.device.counters import Counters
from ballonet.device.effects import Effect, Emit, PagesHinted, PagesRejected
from ballonet.device.hint_round import HintRound, HintState
from ballonet.device.inflation import BalloonMemory
from ballonet.errors import RingError
from ballonet.memory.runs import find_pieces
from ballonet.virtio.queues import QueueRole
from ballonet.virtio.ring.chain import Chain, read_pieces

__all__ = ["HintQueue"]

_WORD_BYTES: Final = 4


class HintQueue:
    """What comes in over the hint queue of one device."""

    def __init__(self, counters: Counters, hint_round: HintRound) -> None:
        self._counters, self._round = counters, hint_round

    def serve(
        self, chain: Chain, memory: BalloonMemory, *, may_use: bool, big_endian: bool
    ) -> Iterator[Effect]:
        """Take the driver's word and pages; `may_use` says if its poison lets pages be skipped.

        Raises: GuestMemoryError; RingError, if the word has not four bytes.
        """
        if chain.readable:
            yield from self._take_word(chain, memory, "big" if big_endian else "little")
        if not chain.writable:
            return
        if self._round.state is HintState.START and may_use:
            yield from self._take_pages(chain, memory)
        else:
            self._counters.ignored_hint_pieces += len(chain.writable)

    def _take_word(
        self, chain: Chain, memory: BalloonMemory, order: Literal["big", "little"]
    ) -> Iterator[Effect]:
        if chain.readable_bytes != _WORD_BYTES:
            raise RingError(f"a hint command of {chain.readable_bytes} bytes, not {_WORD_BYTES}")
        before = self._round.state
        word = int.from_bytes(read_pieces(memory, chain.readable), order)
        yield from self._round.take_word(word)
        if before is not HintState.START and self._round.state is HintState.START:
            self._counters.hint_rounds += 1

    def _take_pages(self, chain: Chain, memory: BalloonMemory) -> Iterator[Effect]:
        runs, rejected = find_pieces(chain.writable, memory.table)
        self._counters.hinted_pages += runs.total_pages
        if rejected:
            self._counters.rejected_pieces += rejected
            yield Emit(PagesRejected(QueueRole.HINT, rejected))
        yield Emit(PagesHinted(self._round.cmd_id, runs))
