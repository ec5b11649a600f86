"""Moves of a balloon's pages, recognised in the messages that the device has had."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["PageMove", "Told", "balloon_of", "follow_moves"]


@dataclass(frozen=True, slots=True)
class Told:
    """One message: page numbers given to the host, or taken back."""

    is_inflate: bool
    pfns: tuple[int, ...]

    @property
    def verb(self) -> str:
        """On which queue it came."""
        return "inflate" if self.is_inflate else "deflate"


@dataclass(frozen=True, slots=True)
class PageMove:
    """A page of the balloon has another one in its place."""

    from_pfn: int
    to_pfn: int


def balloon_of(told: Iterable[Told]) -> set[int]:
    """What is in the balloon after these messages, if it was empty before."""
    there: set[int] = set()
    for one in told:
        if one.is_inflate:
            there.update(one.pfns)
        else:
            there.difference_update(one.pfns)
    return there


def follow_moves(told: Sequence[Told], pages: Iterable[int]) -> list[PageMove] | None:
    """The moves that messages consist of, each an inflate and then a deflate of one page.

    `pages` were in the balloon before.  None: they are something else, or in another order.
    """
    there = set(pages)
    moves = []
    if len(told) % 2:
        return None
    for given, taken in zip(told[::2], told[1::2], strict=True):
        if not given.is_inflate or taken.is_inflate or {len(given.pfns), len(taken.pfns)} != {1}:
            return None
        (to_pfn,), (from_pfn,) = given.pfns, taken.pfns
        if to_pfn in there or from_pfn not in there:
            return None
        there.add(to_pfn)
        there.remove(from_pfn)
        moves.append(PageMove(from_pfn, to_pfn))
    return moves
