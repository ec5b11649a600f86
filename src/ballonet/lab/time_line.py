"""What happened at several ends, on one clock: printed, and as a trace for Perfetto.

Not here: its picture (time_line_picture.py), how two clocks become one (clock_offset.py).
Units: nanoseconds of our clock.
Source: the Trace Event Format of chrome://tracing, which ui.perfetto.dev reads.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

__all__ = ["Event", "as_perfetto", "as_text", "collapsed", "merged"]

#: Repetitions that are further apart are told one by one.
_SOON_NS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened at one end."""

    at_ns: int
    end: str  #: who did it: "we", "QEMU", "guest, interrupt" ...
    name: str
    detail: str = ""
    lasts_ns: int = 0  #: 0: no time worth telling
    stack: tuple[str, ...] = ()  #: the innermost first
    times: int = 1  #: as often in a row


def merged(*ends: Iterable[Event]) -> list[Event]:
    """All events in the order of their time; those of one time as they were given."""
    return sorted((event for end in ends for event in end), key=lambda event: event.at_ns)


def collapsed(events: Iterable[Event], *, within_ns: int = _SOON_NS) -> list[Event]:
    """The same without repetitions: what an end repeats soon, with nothing else between, is one.

    Whatever the other ends did meanwhile; later than `within_ns` it is told again.
    """
    result: list[Event] = []
    newest: dict[str, int] = {}  # of each end
    for event in events:
        index = newest.get(event.end)
        if index is not None and _repeats(event, result[index], within_ns):
            first = result[index]
            until_ns = event.at_ns + event.lasts_ns
            times = first.times + event.times
            result[index] = replace(first, times=times, lasts_ns=until_ns - first.at_ns)
        else:
            newest[event.end] = len(result)
            result.append(event)
    return result


def as_text(events: Sequence[Event]) -> str:
    """A line an event: milliseconds since the first, who, what."""
    if not events:
        return ""
    width = max(len(event.end) for event in events)
    return "\n".join(
        f"{milliseconds(event, events[0]):>10} ms  {event.end:<{width}}  {label(event)}"
        for event in events
    )


def milliseconds(event: Event, first: Event) -> str:
    """When it was, since the first."""
    return f"{(event.at_ns - first.at_ns) / 1e6:.3f}"


def label(event: Event) -> str:
    """What it was, and how often."""
    detail = f" {event.detail}" if event.detail else ""
    return f"{event.name}{detail}" + (f" ({event.times} times)" if event.times > 1 else "")


def as_perfetto(events: Sequence[Event]) -> str:
    """JSON with a track an end; stacks stand with the arguments of their event."""
    tracks = {end: number for number, end in enumerate(dict.fromkeys(e.end for e in events), 1)}
    begin_ns = events[0].at_ns if events else 0
    names: list[dict[str, object]] = [
        {"ph": "M", "name": "thread_name", "pid": 1, "tid": track, "args": {"name": end}}
        for end, track in tracks.items()
    ]
    rows = [_row(event, tracks[event.end], begin_ns) for event in events]
    return json.dumps({"displayTimeUnit": "ms", "traceEvents": names + rows}, indent=1) + "\n"


def _repeats(event: Event, before: Event, within_ns: int) -> bool:
    is_soon = event.at_ns - (before.at_ns + before.lasts_ns) <= within_ns
    return is_soon and (event.name, event.detail) == (before.name, before.detail)


def _row(event: Event, track: int, begin_ns: int) -> dict[str, object]:
    kind: dict[str, object] = {"ph": "i", "s": "t"}
    if event.lasts_ns:
        kind = {"ph": "X", "dur": event.lasts_ns / 1000}
    told: dict[str, object] = {"detail": event.detail} if event.detail else {}
    if event.times > 1:
        told["times"] = event.times
    if event.stack:
        told["stack"] = list(event.stack)
    at_us = (event.at_ns - begin_ns) / 1000
    return kind | {"name": event.name, "pid": 1, "tid": track, "ts": at_us, "args": told}
