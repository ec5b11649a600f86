"""What the page may ask for, and who has asked for what.

A size that somebody sets is as safe as that of `ballonet set --wait`: not below what the guest
needs, with a verdict, taken back where the guest suffers.  The autopilot would set another one a
second later: where it acts on a machine, it has to be paused for it first.
Units: bytes, seconds; moments are times of day.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from ballonet.agent.autopilot.autopilot import Autopilot
from ballonet.agent.bounded_lines import BoundedLines
from ballonet.agent.web.guard import RefusedError
from ballonet.autopilot.vm_state import VmState
from ballonet.errors import BallonetError
from ballonet.units import format_bytes
from ballonet.vms.adapters import connected_to
from ballonet.vms.discovery import Found
from ballonet.vms.resize import Resize

__all__ = ["ACTIONS_NAME", "Actions", "Record"]

ACTIONS_NAME: Final = "actions.jsonl"
_FILE_BYTES: Final = 1 << 20
_DEADLINE_S: Final = 30.0
_AT_HAND: Final = 100
_log = logging.getLogger(__name__)


class Record(Struct, frozen=True):
    """One thing that somebody has asked for."""

    at_s: float
    who: str  #: where the request came from
    what: str
    vm: str
    outcome: str  #: empty: it is under way


class Actions:
    """Belongs to one loop; `close` it at the end."""

    def __init__(self, autopilot: Autopilot, directory: Path, changed: Callable[[], None]) -> None:
        """`changed` is called when there is something new to show."""
        self._autopilot, self._changed = autopilot, changed
        self._file = BoundedLines(directory / ACTIONS_NAME, _FILE_BYTES, "what people ask for")
        self._records: list[Record] = []
        self._tasks: dict[str, asyncio.Task[None]] = {}

    @property
    def newest(self) -> list[Record]:
        """The last things that were asked for, the newest first."""
        return self._records[::-1]

    async def close(self) -> None:
        """What is under way stands, and is followed no more."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def set_size(self, who: str, vm: str, size: int) -> None:
        """Begin. Raises: RefusedError."""
        found = self._machine(vm)
        if found.why_not:
            raise RefusedError(409, f"{vm} cannot be asked: {found.why_not}")
        if self._is_piloted(vm):
            raise RefusedError(409, f"the autopilot sets the size of {vm}: pause it for it first")
        if vm in self._tasks:
            raise RefusedError(409, f"{vm} is being asked for another size already")
        record = self._note(who, f"size {format_bytes(size)}", vm)
        task = asyncio.ensure_future(self._resize(record, found, size))
        self._tasks[vm] = task
        task.add_done_callback(lambda _: self._tasks.pop(vm, None))

    def pause(self, who: str, vm: str) -> None:
        """Have the autopilot leave a machine alone. Raises: RefusedError."""
        self._machine(vm)
        self._autopilot.pause(vm)
        self._note(who, "pause", vm, "done")

    def resume(self, who: str, vm: str) -> None:
        """... no more. Raises: RefusedError."""
        if vm not in self._autopilot.asked.wishes.paused:
            raise RefusedError(409, f"the autopilot is not paused for {vm}")
        self._autopilot.resume(vm)
        self._note(who, "resume", vm, "done")

    def reserve(self, who: str, size: int, seconds: float) -> None:
        """Keep so much more for the host; 0: nothing more. Raises: RefusedError."""
        if self._autopilot.is_dry_run:
            raise RefusedError(409, "the autopilot tries only, and asks no machine for memory")
        self._autopilot.reserve(size, seconds)
        what = f"reserve {format_bytes(size)} for {seconds:.0f} s" if size else "release"
        self._note(who, what, "", "done")

    def _machine(self, vm: str) -> Found:
        found = self._autopilot.machines.get(vm)
        if found is None:
            raise RefusedError(404, f"no machine is named {vm}")
        return found

    def _is_piloted(self, vm: str) -> bool:
        """The autopilot acts on it."""
        decided = self._autopilot.newest
        if self._autopilot.is_dry_run or decided is None or vm in self._paused:
            return False
        standing = decided.standings.get(vm)
        return standing is not None and standing.record.state is not VmState.EXCLUDED

    @property
    def _paused(self) -> frozenset[str]:
        return self._autopilot.asked.wishes.paused

    async def _resize(self, record: Record, found: Found, size: int) -> None:
        try:
            async with connected_to(found.sighting) as machine:
                outcome = await Resize(machine, size, lambda _: None).run(
                    force=False, deadline_s=_DEADLINE_S
                )
            words = outcome.why or (outcome.verdict.value if outcome.verdict else "asked")
            if outcome.refused:
                words = f"refused: {words}"
        except BallonetError as error:
            words = f"failed: {error}"
        except Exception:  # a bug must not end what shows everybody else
            _log.exception("asking %s for a size", record.vm)
            words = "a bug of ballonet's has ended this request"
        self._records[self._records.index(record)] = done = msgspec.structs.replace(
            record, outcome=words
        )
        self._write(done)

    def _note(self, who: str, what: str, vm: str, outcome: str = "") -> Record:
        record = Record(time.time(), who, what, vm, outcome)
        self._records = [*self._records, record][-_AT_HAND:]
        if outcome:
            self._write(record)
        else:
            self._changed()
        return record

    def _write(self, record: Record) -> None:
        _log.info("%s has asked: %s %s: %s", record.who, record.what, record.vm, record.outcome)
        self._file.write(msgspec.json.encode(record) + b"\n")
        self._changed()
