"""What was decided: the newest of each machine at hand, all of it in a file of JSON lines.

Units: bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from pathlib import Path
from typing import Final

from ballonet.agent.bounded_lines import BoundedLines
from ballonet.autopilot.explanation import Verdict
from ballonet.autopilot.recording import decision_line, round_line
from ballonet.autopilot.sample import Round

__all__ = ["LEDGER_NAME", "Ledger"]

LEDGER_NAME: Final = "autopilot.jsonl"
_FILE_BYTES: Final = 64 << 20
#: Of each machine.
_AT_HAND: Final = 100


class Ledger:
    """In the directory of an agent; who uses it is the only agent there."""

    def __init__(self, directory: Path) -> None:
        self._file: Final = BoundedLines(directory / LEDGER_NAME, _FILE_BYTES, "decisions")
        self._at_hand: dict[str, deque[Verdict]] = {}

    def note(self, verdicts: Collection[Verdict], seen: Round | None = None) -> None:
        """Write down what was decided and, if it is given, what was seen."""
        for one in verdicts:
            self._at_hand.setdefault(one.vm, deque(maxlen=_AT_HAND)).append(one)
        lines = [round_line(seen)] if seen is not None else []
        lines += [decision_line(one) for one in verdicts]
        if lines:
            self._file.write("".join(f"{line}\n" for line in lines).encode())

    def last(self, vm: str, count: int) -> list[Verdict]:
        """The newest decisions for a machine, the oldest of them first."""
        at_hand = self._at_hand.get(vm, deque())
        return list(at_hand)[len(at_hand) - min(count, len(at_hand)) :]

    def forget(self, vms: Collection[str]) -> None:
        """These are gone; the file still has them."""
        for vm in vms:
            self._at_hand.pop(vm, None)
