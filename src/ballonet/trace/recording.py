"""An observer that writes down everything that happens at a balloon."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from ballonet.balloon.facts import (
    ActualChanged,
    Called,
    ChainDone,
    ChainRefused,
    CommandGiven,
    ConfigAnnounced,
    ConfigRead,
    ConfigWritten,
    Discarded,
    Fact,
    GuestChanged,
    HintRoundChanged,
    Kicked,
    MessageReceived,
    MessageSent,
    Negotiated,
    PagesHinted,
    PagesReported,
    StatsReceived,
)
from ballonet.control.control import Control
from ballonet.runtime.event_loop import Timed
from ballonet.trace.tracks import Track, track_of
from ballonet.trace.writer import TraceWriter
from ballonet.units import pages_to_bytes
from ballonet.virtio.features import feature_names
from ballonet.virtio.queues import QueueRole

__all__ = ["Recorder", "recording"]

_FIELDS: Final = {0: "num_pages", 4: "actual", 8: "free_page_hint_cmd_id", 12: "poison_val"}


class Recorder:
    """Puts facts into words of a trace; observes details too."""

    def __init__(self, writer: TraceWriter) -> None:
        self._writer = writer

    def observe(self, fact: Fact) -> None:
        """Record a fact, whatever becomes of the record."""
        self._writer.attempt(lambda: self._record(fact))

    def _record(self, fact: Fact) -> None:  # noqa: C901 - one flat case for each kind
        put = self._writer.instant
        match fact:
            case Kicked(role):
                put(track_of(role), "kick")
            case ChainDone(role, pages):
                put(track_of(role), f"{role.name.lower()} message", **_amount(role, pages))
            case Called(role):
                put(track_of(role), "call")
            case Discarded(ranges, size, began_ns):
                self._writer.span(Track.DISCARD, "discard", began_ns, ranges=ranges, bytes=size)
            case ConfigAnnounced():
                put(Track.CONFIG, "config change sent")
            case ConfigRead(offset, data):
                put(Track.CONFIG, "driver reads", **_fields(offset, data))
            case ConfigWritten(offset, data):
                put(Track.CONFIG, "driver writes", **_fields(offset, data))
            case CommandGiven(name, arguments):
                put(Track.HOST, name, **arguments)
            case MessageReceived(name, arguments):
                put(Track.SOCKET, name, **arguments)
            case MessageSent(name, arguments):
                put(Track.DEVICE, f"{name} sent", **arguments)
            case Negotiated(features):
                put(Track.DEVICE, "features", names=", ".join(feature_names(features)))
            case ActualChanged(pages):
                put(Track.DEVICE, "actual changed", actual=pages)
            case HintRoundChanged(state, cmd_id):
                put(Track.HINT, f"round {state.lower()}", cmd_id=cmd_id)
            case PagesHinted(_, runs):
                put(Track.HINT, "hint", pages=runs.total_pages)
            case PagesReported(size, is_skipped):
                put(Track.REPORTING, "report", bytes=size, skipped=is_skipped)
            case StatsReceived():
                put(Track.DEVICE, "statistics received")
            case ChainRefused():
                put(Track.DEVICE, "chain refused")
            case GuestChanged():
                pass  # the messages that caused it stand in the record
            case _:
                put(Track.DEVICE, _words(fact))


@contextmanager
def recording(
    control: Control, writer: TraceWriter, add_timed: Callable[[Timed], None]
) -> Iterator[None]:
    """Record everything inside the block; begins before the device runs, and ends after it.

    `add_timed`: has the writer's timer served by the device's thread, which records.
    """
    control.subscribe(Recorder(writer).observe, details=True)
    add_timed(writer)
    try:
        yield
    finally:
        writer.close()


def _amount(role: QueueRole, pages: int) -> dict[str, object]:
    """What a message names, in the unit of its queue."""
    match role:
        case QueueRole.STATS:
            return {}
        case QueueRole.REPORTING:
            return {"bytes": pages_to_bytes(pages)}
        case _:
            return {"pages": pages}


def _words(fact: Fact) -> str:
    """The name of a fact's class as words."""
    return re.sub("(?<=[a-z])(?=[A-Z])", " ", type(fact).__name__).lower()


def _fields(offset: int, data: bytes) -> dict[str, object]:
    """Configuration bytes by the names of their fields."""
    found = {
        name: int.from_bytes(data[at - offset : at - offset + 4], "little")
        for at, name in _FIELDS.items()
        if offset <= at and at + 4 <= offset + len(data)
    }
    return dict(found) or {"offset": offset, "bytes": len(data)}
