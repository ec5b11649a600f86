"""What was decided: the newest of each machine at hand, all of it in a file of JSON lines.

The file has a bounded size: when it is full it takes the place of the one before it.
Units: bytes.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Collection
from pathlib import Path
from typing import Final

from ballonet.autopilot.explanation import Verdict
from ballonet.autopilot.recording import decision_line, round_line
from ballonet.autopilot.sample import Round

__all__ = ["LEDGER_NAME", "Ledger"]

LEDGER_NAME: Final = "autopilot.jsonl"
_FILE_BYTES: Final = 64 << 20
#: Of each machine.
_AT_HAND: Final = 100
_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
_log = logging.getLogger(__name__)


class Ledger:
    """In the directory of an agent; who uses it is the only agent there."""

    def __init__(self, directory: Path) -> None:
        self._path: Final = directory / LEDGER_NAME
        self._at_hand: dict[str, deque[Verdict]] = {}
        self._complaint = ""

    def note(self, verdicts: Collection[Verdict], seen: Round | None = None) -> None:
        """Write down what was decided and, if it is given, what was seen."""
        for one in verdicts:
            self._at_hand.setdefault(one.vm, deque(maxlen=_AT_HAND)).append(one)
        lines = [round_line(seen)] if seen is not None else []
        lines += [decision_line(one) for one in verdicts]
        if lines:
            self._write("".join(f"{line}\n" for line in lines).encode())

    def last(self, vm: str, count: int) -> list[Verdict]:
        """The newest decisions for a machine, the oldest of them first."""
        at_hand = self._at_hand.get(vm, deque())
        return list(at_hand)[len(at_hand) - min(count, len(at_hand)) :]

    def forget(self, vms: Collection[str]) -> None:
        """These are gone; the file still has them."""
        for vm in vms:
            self._at_hand.pop(vm, None)

    def _write(self, data: bytes) -> None:
        """A disk that is full is no reason to decide nothing; it is said once."""
        try:
            fd = os.open(self._path, _FLAGS, 0o600)
            try:
                if os.fstat(fd).st_size + len(data) > _FILE_BYTES:
                    self._path.replace(self._path.with_name(f"{LEDGER_NAME}.1"))
                    os.close(fd)
                    fd = os.open(self._path, _FLAGS, 0o600)
                os.write(fd, data)
            finally:
                os.close(fd)
            self._complaint = ""
        except OSError as error:
            complaint = error.strerror or str(error)
            if complaint != self._complaint:
                _log.warning("decisions are not written down: %s", complaint)
            self._complaint = complaint
