"""The last hours of every machine, for whoever draws them; they outlive the agent.

Every ten seconds a line of JSON of what is known then.  Twenty machines fill a file in some eight
hours, and there are two: Prometheus is for longer.
Units: bytes, seconds of the time of day.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from ballonet.agent.bounded_lines import BoundedLines
from ballonet.agent.labels import vm_names
from ballonet.agent.round import Round
from ballonet.vms.observation import Observation

__all__ = ["EVERY_S", "KEYS", "PAST_NAME", "Past", "PastPoint", "Row"]

PAST_NAME: Final = "history.jsonl"
EVERY_S: Final = 10.0
_FILE_BYTES: Final = 4 << 20

#: Time of day, and the values of a PastPoint in their order.
Row = list[float | int | None]


class PastPoint(Struct, frozen=True, array_like=True):
    """One machine at one moment; None: not known."""

    memory_bytes: int | None = None
    target_bytes: int | None = None
    actual_bytes: int | None = None
    available_bytes: int | None = None
    held_bytes: int | None = None


#: Of the members of a Row.
KEYS: Final = ("at", *(name.removesuffix("_bytes") for name in PastPoint.__struct_fields__))


class _Line(Struct, frozen=True):
    at_s: float
    host_available_bytes: int | None
    vms: dict[str, PastPoint]  #: by `kind:name`


class Past:
    """A taker of rounds, in the directory of an agent."""

    def __init__(self, directory: Path) -> None:
        self._file = BoundedLines(directory / PAST_NAME, _FILE_BYTES, "the last hours")
        self._decoder = msgspec.json.Decoder(_Line)
        self._next_s = float("-inf")

    def take(self, one: Round) -> None:
        """Write down what is known, if that is due."""
        if one.ended_s < self._next_s:
            return
        self._next_s = one.ended_s + EVERY_S
        names = vm_names([found.sighting.who for found in one.found])
        points = {
            name: _point(found.observation)
            for name, found in zip(names, one.found, strict=True)
            if not found.why_not
        }
        line = _Line(round(one.ended_wall_s, 1), one.host.available_bytes, points)
        self._file.write(msgspec.json.encode(line) + b"\n")

    def of(self, vms: frozenset[str] | None, since_s: float) -> dict[str, list[Row]]:
        """Rows of these machines, or of all, from then on; the oldest first."""
        found: dict[str, list[Row]] = {}
        for line in self._lines():
            if line.at_s < since_s:
                continue
            for vm, point in line.vms.items():
                if vms is None or vm in vms:
                    found.setdefault(vm, []).append([line.at_s, *msgspec.structs.astuple(point)])
        return found

    def _lines(self) -> Iterator[_Line]:
        """What another program has written there is passed over."""
        for raw in self._file.read():
            try:
                yield self._decoder.decode(raw)
            except msgspec.MsgspecError:
                continue


def _point(look: Observation) -> PastPoint:
    return PastPoint(
        look.memory_bytes,
        look.target_bytes,
        look.actual_bytes,
        look.available_bytes,
        look.host.held_bytes,
    )
