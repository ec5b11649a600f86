"""Rounds of free page hints, one step after the other, and what the driver says and reads.

As a migration has them, without one: nothing is done with the hints.  Whatever happens inside the
block, the guest has its pages back after it.
Units: balloon pages.
"""

from __future__ import annotations

from threading import Condition
from types import TracebackType
from typing import Final, NamedTuple, Self

from ballonet.balloon.facts import ConfigRead, Fact, HintRoundChanged, PagesHinted
from ballonet.control.device_control import DeviceControl
from ballonet.errors import GuestError

__all__ = ["HintWatch", "HintedBlock", "id_read"]

_END_S: Final = 120.0
#: Of `free_page_hint_cmd_id` in the device's configuration [VIRTIO 1.4 5.5.4].
_ID_OFFSET: Final = 8
_ID_BYTES: Final = 4


class HintedBlock(NamedTuple):
    """What one descriptor of the hint queue names."""

    first_pfn: int
    pages: int


def id_read(fact: ConfigRead) -> int | None:
    """The id of the round that the driver has read with this; None, if it read something else."""
    start = _ID_OFFSET - fact.offset
    if start < 0 or len(fact.data) < start + _ID_BYTES:
        return None
    return int.from_bytes(fact.data[start : start + _ID_BYTES], "little")


class HintWatch:
    """Asks one device's guest for hints; a context manager."""

    def __init__(self, device: DeviceControl) -> None:
        self._device = device
        self._changed = Condition()
        self._blocks: dict[int, list[HintedBlock]] = {}
        self._ended: set[int] = set()  # rounds that the driver began and ended
        self._begun: set[int] = set()
        self._ids_read: list[int] = []

    def __enter__(self) -> Self:
        self._device.subscribe(self._observe, details=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._device.hints.finish().result(_END_S)
        self._device.unsubscribe(self._observe)

    @property
    def ids_read(self) -> tuple[int, ...]:
        """What the driver has read of the id field, in order."""
        with self._changed:
            return tuple(self._ids_read)

    def blocks(self, cmd_id: int) -> tuple[HintedBlock, ...]:
        """What the driver has named in a round, in its order."""
        with self._changed:
            return tuple(self._blocks.get(cmd_id, ()))

    def ask(self) -> int:
        """Begin a round, and wait until the driver has nothing more to name; its id.

        Raises: GuestError.
        """
        cmd_id = self._device.hints.begin().result(_END_S)
        if cmd_id is None:
            raise GuestError("the guest's driver did not accept FREE_PAGE_HINT")
        with self._changed:
            if not self._changed.wait_for(lambda: cmd_id in self._ended, _END_S):
                state = "does not end" if cmd_id in self._begun else "does not begin"
                raise GuestError(f"the driver {state} the round {cmd_id:#x}")
        return cmd_id

    def stop(self) -> None:
        """Show STOP, and wait until the driver has read it. Raises: GuestError.

        A driver that has ended the round is not told of it: it looks because its target is set,
        to what it is.
        """
        before = len(self.ids_read)
        self._device.hints.stop().result(_END_S)
        self._device.set_target(self._device.status().target_pages).result(_END_S)
        self._wait_for_read(before, "STOP")

    def finish(self) -> None:
        """Show DONE, and wait until the driver has read it. Raises: GuestError."""
        before = len(self.ids_read)
        self._device.hints.finish().result(_END_S)
        self._wait_for_read(before, "DONE")

    def _wait_for_read(self, before: int, what: str) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._ids_read) > before, _END_S):
                raise GuestError(f"the driver does not read {what}")

    def _observe(self, fact: Fact) -> None:
        """On the device's thread."""
        with self._changed:
            match fact:
                case PagesHinted(cmd_id, runs):
                    found = self._blocks.setdefault(cmd_id, [])
                    found += (HintedBlock(first, pages) for first, pages in runs.pairs())
                case HintRoundChanged("START", cmd_id):
                    self._begun.add(cmd_id)
                case HintRoundChanged(_, cmd_id) if cmd_id in self._begun:
                    self._ended.add(cmd_id)
                case ConfigRead() if (found_id := id_read(fact)) is not None:
                    self._ids_read.append(found_id)
                case _:
                    return
            self._changed.notify_all()
