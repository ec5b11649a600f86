"""`balloon N`, from the request to `actual`, at every end and on one clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Final

from ballonet.errors import GuestError
from ballonet.lab.clock_offset import SharedClock
from ballonet.lab.experiment import Experiment, Kernel
from ballonet.lab.monitor_events import WALL_ERROR_NS
from ballonet.lab.notebook import Notebook
from ballonet.lab.time_line import Event, as_perfetto, as_text, collapsed, merged
from ballonet.lab.time_line_picture import as_svg
from ballonet.lab.trace_lines import TraceEntry
from ballonet.lab.trace_lines import as_text as as_back_trace
from ballonet.lab.traced_guest import BALLOON_EVENTS, TracedGuest, guest_events, note_clock
from ballonet.lab.waiting import wait_for
from ballonet.units import format_bytes

__all__ = ["EXPERIMENT"]

_MEMORY_BYTES: Final = 256 << 20
_TARGET_BYTES: Final = 254 << 20  # two messages of 256 pages
_FUNCTIONS: Final = (
    *("virtballoon_changed", "update_balloon_size_func", "fill_balloon", "leak_balloon"),
    *("balloon_page_alloc", "tell_host", "balloon_ack", "vp_set", "release_pages_balloon"),
)
_SHOWN: Final = ("virtballoon_changed", "tell_host", "balloon_ack", "leak_balloon")
_READS: Final = "handle_output"  # QEMU a message, page by page
#: What has to follow on what, when a balloon grows: an end, and what it does.
_STAGES: Final = (
    ("we", "send balloon", "we tell QEMU's monitor"),
    ("QEMU", "to_target", "QEMU changes num_pages"),
    ("guest, interrupt", "virtballoon_changed", "the driver hears in an interrupt"),
    ("guest, worker", "update_balloon_size_func", "its worker begins"),
    ("guest, worker", "balloon_page_alloc", "it takes a first page"),
    ("guest, worker", "tell_host", "it tells the pages of a message"),
    ("QEMU", _READS, "QEMU reads the message"),
    ("guest, interrupt", "balloon_ack", "the driver hears that it was read"),
    ("guest, worker", "vp_set", "it writes `actual`"),
    ("QEMU", "make BALLOON_CHANGE", "QEMU has read `actual`, and makes an event of it"),
    ("we", "hear BALLOON_CHANGE", "we hear the event"),
)


def _on_qemu(notebook: Notebook) -> None:
    with TracedGuest(
        _MEMORY_BYTES, qemu_events=(*BALLOON_EVENTS, "virtio_balloon_handle_output")
    ) as traced:
        notebook.runs_on(traced.guest.release, "QEMU")
        with traced.tracing(_FUNCTIONS) as trace:
            traced.measure_clock()
            notebook.step(f"balloon {_TARGET_BYTES >> 20} is asked for: two messages of 256 pages")
            _resize(traced, _TARGET_BYTES)
            wait_for(lambda: _is_told(traced, _TARGET_BYTES), "BALLOON_CHANGE of the target")
            traced.measure_clock()
            grown = trace.read()
            clock = traced.clock(grown)
            events = _time_line(traced, grown, clock)
            missing = trace.missing
            trace.clear()
            notebook.step("and all of the memory is asked for again")
            _resize(traced, _MEMORY_BYTES)
            shrunk = trace.read()
    note_clock(notebook, clock)
    notebook.see("put into their callers by the compiler", ", ".join(missing) or "none")
    notebook.block("what happened, by our clock", as_text(collapsed(events)))
    for name in _SHOWN:
        _show(notebook, grown if name != "leak_balloon" else shrunk, name)
    notebook.keep("balloon-backtrace.json", as_perfetto(events))
    notebook.keep("balloon-backtrace.svg", as_svg("balloon N", collapsed(events)))
    stages = _stages(events)
    _claim_order(notebook, stages, clock)
    _claim_ways(notebook, grown, shrunk)
    took_ms = (stages[-1].at_ns - stages[0].at_ns) / 1e6
    notebook.conclude(
        f"The request went through {len(stages)} stages, from our message to QEMU's event, within"
        f" {took_ms:.1f} ms; the guest's times are right to {clock.error_ns / 1e6:.2f} ms."
    )


def _resize(traced: TracedGuest, size_bytes: int) -> None:
    traced.execute("balloon", value=size_bytes)
    wait_for(lambda: traced.actual_bytes() == size_bytes, f"actual = {format_bytes(size_bytes)}")


def _is_told(traced: TracedGuest, size_bytes: int) -> bool:
    """QEMU sends no more than one event a second: the last one has the target."""
    changes = traced.events.named("BALLOON_CHANGE")
    return bool(changes) and changes[-1].data["actual"] == size_bytes


def _time_line(
    traced: TracedGuest, entries: Sequence[TraceEntry], clock: SharedClock
) -> list[Event]:
    """Everything from the request on; what the device was asked at the boot is left out."""
    begin_ns = traced.told[0].at_ns
    host = [
        replace(event, detail="" if event.name == _READS else event.detail)  # a page's address
        for event in traced.qemu_events()
        if event.at_ns >= begin_ns
    ]
    return merged(traced.told, host, guest_events(entries, clock), traced.heard_events())


def _stages(events: Sequence[Event]) -> list[Event]:
    """The first of each stage. Raises: GuestError, naming one that is missing."""
    found = []
    for end, name, what in _STAGES:
        first = next((one for one in events if (one.end, one.name) == (end, name)), None)
        if first is None:
            raise GuestError(f"it was not seen that {what} ({end}: {name})")
        found.append(first)
    return found


def _claim_order(notebook: Notebook, stages: Sequence[Event], clock: SharedClock) -> None:
    rows = []
    pairs = zip(pairwise(stages), pairwise(_STAGES), strict=True)
    for (before, after), ((_, _, first), (_, _, then)) in pairs:
        error_ns = _error_ns(before.end, after.end, clock)
        later_ns = after.at_ns - before.at_ns
        rows.append((then, later_ns / 1e6, error_ns / 1e6))
        notebook.claim(f"{first}, then {then}", holds=later_ns + error_ns >= 0)
    notebook.table("each stage after the one before", ("stage", "ms later", "± ms"), rows)


def _error_ns(before: str, after: str, clock: SharedClock) -> int:
    """How wrong the time between events of two ends can be; the guest's have one clock."""
    guests = before.startswith("guest") + after.startswith("guest")
    if before == after or guests == 2:
        return 0
    return (clock.error_ns if guests else 0) + WALL_ERROR_NS


def _claim_ways(
    notebook: Notebook, grown: Sequence[TraceEntry], shrunk: Sequence[TraceEntry]
) -> None:
    told = [one for one in grown if one.name == "tell_host"]
    notebook.claim("two messages carry the pages of 2 MiB", holds=len(told) == 2)
    notebook.claim(
        "the driver hears of a new size in an interrupt",
        holds=all(one.is_in_interrupt for one in grown if one.name == "virtballoon_changed"),
    )
    notebook.claim(
        "messages are sent by update_balloon_size_func, on a thread of a workqueue",
        holds=all(
            one.is_worker and {"update_balloon_size_func", "process_one_work"} <= set(one.stack)
            for one in told
        ),
    )
    leaks = [one for one in shrunk if one.name == "leak_balloon"]
    notebook.claim(
        "so it is on the way back, with leak_balloon",
        holds=bool(leaks)
        and all(one.is_worker and "update_balloon_size_func" in one.stack for one in leaks),
    )


def _show(notebook: Notebook, entries: Sequence[TraceEntry], name: str) -> None:
    for one in (entry for entry in entries if entry.name == name):
        notebook.block(f"the way to {name}", as_back_trace(one))
        return


EXPERIMENT: Final = Experiment(
    name="balloon-backtrace",
    question="How does `balloon N` work, from the request to fill_balloon and back?",
    answer="QEMU writes num_pages and interrupts the guest, whose driver hands the work to a"
    " workqueue; the worker takes pages, tells 256 of them in a message, waits until QEMU has"
    " dropped them, and writes `actual`, of which QEMU tells its clients.",
    explanation="In QEMU the command ends in virtio_balloon_to_target, which only notes the size"
    " and raises the interrupt of a changed configuration: the command has been answered long"
    " before the balloon has its size. In the guest virtballoon_changed may not sleep, so it queues"
    " update_balloon_size_func. That reads num_pages, and calls fill_balloon (which the compiler"
    " often makes a part of it) or leak_balloon; both call tell_host, which kicks the queue and"
    " sleeps until balloon_ack has been called in an interrupt. Times of the guest are translated"
    " into ours by marks that were written into its trace between two readings of our clock.",
    sources=(
        "Virtio specification 1.3, section 5.5.6 (Device Operation)",
        "Linux drivers/virtio/virtio_balloon.c, virtballoon_changed, update_balloon_size_func",
        "Linux drivers/virtio/virtio_balloon.c, fill_balloon, leak_balloon, tell_host, balloon_ack",
        "QEMU hw/virtio/virtio-balloon.c, virtio_balloon_to_target, virtio_balloon_handle_output",
        "QEMU hw/virtio/virtio-balloon.c, virtio_balloon_set_config",
    ),
    runs={Kernel.QEMU: _on_qemu},
)
