"""Lines of Linux's `trace` file: what was called, from where, in which context.

    kworker/0:1-19   [000] d.h1.   12.345678: virtballoon_changed [virtio_balloon] <-vp_interrupt
    kworker/0:1-19   [000] d.h1.   12.345679: <stack trace>
     => virtballoon_changed
     => vp_interrupt

The five signs after the processor: interrupts off, rescheduling wanted, in an interrupt, how often
preemption was forbidden, how often migration was.  A stack belongs to what its task has just done.
Not here: how a kernel is made to trace (function_trace.py).
Units: nanoseconds of the trace's own clock; the file has microseconds.
Source: Linux Documentation/trace/ftrace.rst, kernel/trace/trace_output.c.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

__all__ = ["MARK", "TraceEntry", "as_text", "parse_trace"]

MARK: Final = "tracing_mark_write"  #: what the kernel calls what was written to `trace_marker`
_LINE: Final = re.compile(
    r"\s*(?P<task>\S.*|)-(?P<pid>\d+)\s+\[(?P<cpu>\d+)\]\s+(?P<flags>\S{4,6})"
    r"\s+(?P<seconds>\d+)\.(?P<micros>\d{6}): (?P<text>.*)"
)
_CALL: Final = re.compile(r"(?P<name>\S+)(?: \[\S+\])? <-(?P<caller>\S+)")
_FRAME: Final = re.compile(r"\s*=> (?P<name>[^\s+]+)")
_STACK: Final = "<stack trace>"


@dataclass(frozen=True, slots=True)
class TraceEntry:
    """One thing that the kernel did; of a function `detail` is the caller, of an event its text."""

    task: str
    pid: int
    flags: str
    at_ns: int
    name: str
    detail: str = ""
    stack: tuple[str, ...] = ()  #: the innermost first; of those entries that have one

    @property
    def is_in_interrupt(self) -> bool:
        """A device, or a timer, has interrupted whatever ran: nothing may sleep here."""
        return self.flags[2:3] in {"h", "H", "z", "Z"}

    @property
    def has_interrupts_off(self) -> bool:
        """The processor hears of no device now."""
        return self.flags[:1] in {"d", "D"}

    @property
    def is_worker(self) -> bool:
        """A thread of a workqueue did it, not an interrupt that came meanwhile."""
        return self.task.startswith("kworker/") and not self.is_in_interrupt


def parse_trace(text: str) -> list[TraceEntry]:
    """What a `trace` file says, in its order; lines that are none of these are left out."""
    entries: list[TraceEntry] = []
    newest: dict[int, int] = {}  # of each task the entry that a stack belongs to
    frames_of: int | None = None
    for line in text.splitlines():
        frame = _FRAME.match(line)
        if frame is not None:
            if frames_of is not None:
                _add_frame(entries, frames_of, frame["name"])
            continue
        found = _LINE.fullmatch(line)
        if found is None:
            continue
        pid = int(found["pid"])
        if found["text"].strip() == _STACK:
            frames_of = newest.get(pid)
        else:
            newest[pid], frames_of = len(entries), None
            entries.append(_entry(found))
    return entries


def as_text(entry: TraceEntry) -> str:
    """A back-trace for people: what was called, in which context, and by whom; the caller below."""
    where = "in an interrupt of" if entry.is_in_interrupt else "in"
    head = f"{entry.name}, {where} {entry.task}-{entry.pid} ({entry.flags})"
    below = entry.stack[1:] if entry.stack[:1] == (entry.name,) else entry.stack
    return "\n".join((head, *(f"  <- {name}" for name in below)))


def _entry(found: re.Match[str]) -> TraceEntry:
    at_ns = int(found["seconds"]) * 1_000_000_000 + int(found["micros"]) * 1_000
    call = _CALL.match(found["text"])
    if call is not None:
        name, detail = call["name"], call["caller"]
    else:
        name, _, detail = found["text"].partition(": ")
    return TraceEntry(
        found["task"], int(found["pid"]), found["flags"], at_ns, name.strip(), detail.strip()
    )


def _add_frame(entries: list[TraceEntry], index: int, name: str) -> None:
    # The tracer's own code, which has no name.
    if not name.startswith("0x"):
        entries[index] = replace(entries[index], stack=(*entries[index].stack, name))
