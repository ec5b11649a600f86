"""What clients should hear of without asking, from what a balloon does and fails to do."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from ballonet.balloon.facts import (
    ActualChanged,
    Fact,
    HintLeaseEnded,
    PagesReported,
    RingBroken,
    StatusReported,
)
from ballonet.balloon.request import Stage
from ballonet.control.control import Control
from ballonet.monitor.outbox import EventData
from ballonet.qmp.limiter import Event
from ballonet.units import pages_to_bytes

__all__ = ["DeviceWatch"]

_STAGES: Final = {
    Stage.SENT: "x-ballonet-guest-unresponsive",
    Stage.STALLED: "x-ballonet-out-of-puff",
}
#: How long a request may stay in one of these stages before clients are told.
_PATIENCE_S: Final = 2.0


class DeviceWatch:
    """Turns facts into monitor events, and notices requests that get stuck."""

    def __init__(
        self,
        control: Control,
        post: Callable[[str, EventData], None],
        logical_bytes: Callable[[int], int],
    ) -> None:
        self._control, self._post, self._logical_bytes = control, post, logical_bytes
        self._stage, self._since_s, self._told = Stage.NONE, 0.0, True

    def observe(self, fact: Fact) -> None:
        """Pass on what the device says; on its thread."""
        match fact:
            case ActualChanged(pages):
                self._post("BALLOON_CHANGE", lambda: {"actual": self._logical_bytes(pages)})
            case StatusReported(committed_bytes, available_bytes):
                data = {"committed": committed_bytes, "available": available_bytes}
                self._post("HV_BALLOON_STATUS_REPORT", lambda: dict(data))
            case RingBroken(queue, reason):
                name = "x-ballonet-device-broken"
                self._post(name, lambda: {"queue": queue, "reason": reason})
            case HintLeaseEnded(cmd_id):
                self._post("x-ballonet-hint-lease-ended", lambda: {"id": cmd_id})
            case PagesReported(size, is_skipped):
                name = "x-ballonet-reporting"
                self._post(name, lambda: {"reported": size, "skipped": is_skipped})

    def look(self) -> Sequence[Event]:
        """A request that has been stuck for a while, once."""
        status, now_s = self._control.latest, time.monotonic()
        stage = status.stage_at(time.monotonic_ns())
        if stage is not self._stage:
            self._stage, self._since_s, self._told = stage, now_s, False
        name = _STAGES.get(self._stage)
        if self._told or name is None or now_s - self._since_s < _PATIENCE_S:
            return ()
        self._told = True
        data: dict[str, object] = {
            "target": pages_to_bytes(status.target_pages),
            "actual": pages_to_bytes(status.actual_pages),
            "reason": stage.value,
        }
        return (Event(name, data, time.time_ns()),)
