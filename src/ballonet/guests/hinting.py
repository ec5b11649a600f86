"""One free page hint round against a live guest, without a migration around it.

Nothing is done with the hints, because nothing may be: the driver can use a hinted page again at
once (VIRTIO 1.4 5.5.6.5.1), and only a migration that tracks what is written would notice.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from threading import Event
from typing import Final

from ballonet.balloon.facts import Fact, HintRoundChanged, PagesHinted
from ballonet.control.device_control import DeviceControl
from ballonet.errors import GuestError
from ballonet.units import pages_to_bytes
from ballonet.virtio.features import Feature

__all__ = ["HintResult", "run_hint_round"]

_LEASE_S: Final = 60.0
_START_S: Final = 60.0
_STATS_S: Final = 60.0
_BACK_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class HintResult:
    """What a round brought; free memory is what the guest's statistics say, None without them."""

    cmd_id: int
    blocks: int
    hinted_bytes: int
    largest_bytes: int
    seconds: float  #: from the driver's first word to its last
    free_before_bytes: int | None
    free_during_bytes: int | None  #: while the driver held the hinted pages
    free_after_bytes: int | None

    @property
    def is_whole_again(self) -> bool:
        """The guest has its memory back, as far as it tells."""
        if self.free_before_bytes is None or self.free_after_bytes is None:
            return True
        return self.free_after_bytes * 10 >= self.free_before_bytes * 9


class _Round:
    """Watches a round on the device's thread."""

    def __init__(self) -> None:
        self.started, self.ended = Event(), Event()
        self.cmd_id = self.blocks = self.pages = self.largest_pages = 0
        self.begun_s = self.ended_s = 0.0

    def observe(self, fact: Fact) -> None:
        match fact:
            case HintRoundChanged("START", cmd_id):
                self.cmd_id, self.begun_s = cmd_id, time.monotonic()
                self.started.set()
            case HintRoundChanged() if self.started.is_set() and not self.ended.is_set():
                self.ended_s = time.monotonic()
                self.ended.set()
            case PagesHinted(_, runs) if runs.pages.size:
                self.blocks += len(runs.pages)
                self.pages += runs.total_pages
                self.largest_pages = max(self.largest_pages, int(runs.pages.max()))


def run_hint_round(device: DeviceControl, timeout_s: float = 30.0) -> HintResult:
    """Ask for hints, take all that come, and give the guest its pages back, whatever happens.

    Raises: GuestError, if the driver knows no hints or does not begin.
    """
    if Feature.FREE_PAGE_HINT not in device.status().negotiated:
        raise GuestError("the guest's driver did not accept FREE_PAGE_HINT")
    before = _free_bytes(device)
    watch = _Round()
    device.subscribe(watch.observe)
    try:
        device.hints.begin(_LEASE_S)
        if not watch.started.wait(_START_S):
            raise GuestError(f"the guest's driver began no hint round within {_START_S:.0f} s")
        watch.ended.wait(timeout_s)
        device.hints.stop(_LEASE_S).result()
        during = _free_bytes(device)
    finally:
        device.hints.finish()
        device.unsubscribe(watch.observe)
    return HintResult(
        cmd_id=watch.cmd_id,
        blocks=watch.blocks,
        hinted_bytes=pages_to_bytes(watch.pages),
        largest_bytes=pages_to_bytes(watch.largest_pages),
        seconds=watch.ended_s - watch.begun_s,
        free_before_bytes=before,
        free_during_bytes=during,
        free_after_bytes=_free_again(device, before),
    )


def _free_again(device: DeviceControl, before: int | None) -> int | None:
    """Free memory once it is nearly what it was, or what it is after some time."""
    end_s = time.monotonic() + _BACK_S
    while True:
        after = _free_bytes(device)
        if before is None or after is None or after * 10 >= before * 9:
            return after
        if time.monotonic() > end_s:
            return after
        time.sleep(0.1)


def _free_bytes(device: DeviceControl) -> int | None:
    with suppress(GuestError):
        return device.stats.read(_STATS_S).sample.values.get("memfree")
    return None
