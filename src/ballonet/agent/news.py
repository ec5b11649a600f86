"""What an operator wants to read in the log: who came, left, fell silent, and answers again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from ballonet.agent.round import Round
from ballonet.vms.discovery import Found
from ballonet.vms.sighting import Sighting

__all__ = ["News"]

#: One that is slow misses a round or two, again and again.
_SILENT_ROUNDS: Final = 3


class News:
    """Is told every round, of which most are no news."""

    def __init__(self) -> None:
        self._silent_rounds: dict[Sighting, int] | None = None

    def of(self, now: Round) -> Iterator[str]:
        """A line for each that has changed since the round before."""
        before = self._silent_rounds
        self._silent_rounds = {
            one.sighting: 0 if not one.why_not else (before or {}).get(one.sighting, 0) + 1
            for one in now.found
        }
        if before is None:
            yield _summary(now.found)
            return
        for one in now.found:
            yield from self._of_one(one, before.get(one.sighting))
        for sighting in before.keys() - self._silent_rounds.keys():
            yield f"{_name(sighting)} is gone"

    def _of_one(self, one: Found, silent_before: int | None) -> Iterator[str]:
        if silent_before is None:
            why_not = one.sighting.why_not
            yield f"{_name(one.sighting)} is there{f', not reached: {why_not}' * bool(why_not)}"
        elif one.sighting.why_not:
            return  # said when it came
        elif one.why_not and silent_before + 1 == _SILENT_ROUNDS:
            yield f"{_name(one.sighting)} does not answer: {one.why_not}"
        elif not one.why_not and silent_before >= _SILENT_ROUNDS:
            yield f"{_name(one.sighting)} answers again"


def _summary(found: Sequence[Found]) -> str:
    kinds = Counter(one.sighting.who.kind for one in found)
    parts = ", ".join(f"{count} of {kind}" for kind, count in sorted(kinds.items()))
    noun = "machine" if len(found) == 1 else "machines"
    return f"watching {len(found)} {noun}{f': {parts}' * bool(parts)}"


def _name(sighting: Sighting) -> str:
    return f"{sighting.who.kind}:{sighting.who.name}"
