"""The way of the periodic statistics, from QEMU's timer to the buffer with the values."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from ballonet.lab.experiment import Experiment, Kernel
from ballonet.lab.notebook import Notebook
from ballonet.lab.time_line import Event, as_text, merged
from ballonet.lab.trace_lines import TraceEntry
from ballonet.lab.trace_lines import as_text as as_back_trace
from ballonet.lab.traced_guest import TracedGuest, guest_events, note_clock
from ballonet.lab.waiting import wait_for

__all__ = ["EXPERIMENT"]

_MEMORY_BYTES: Final = 256 << 20
_INTERVAL_S: Final = 1
_REQUESTS: Final = 3
#: What each answer consists of, in this order.
_STAGES: Final = (
    *("stats_request", "update_balloon_stats_func", "update_balloon_stats"),
    *("virtqueue_add_outbuf", "virtqueue_kick"),
)
_FUNCTIONS: Final = (*_STAGES, "stats_handle_request")
#: QEMU's timer knows milliseconds, and cuts the rest.
_EARLY_NS: Final = 2_000_000


def _on_qemu(notebook: Notebook) -> None:
    with TracedGuest(_MEMORY_BYTES) as traced:
        notebook.runs_on(traced.guest.release, "QEMU")
        with traced.tracing(_FUNCTIONS) as trace:
            traced.measure_clock()
            notebook.step(f"QEMU is told to ask for statistics every {_INTERVAL_S} s")
            traced.poll_statistics(_INTERVAL_S)
            wait_for(lambda: trace.count("virtqueue_kick") >= _REQUESTS, "a third answer")
            notebook.step("and to ask no more")
            traced.poll_statistics(0)
            wait_for(
                lambda: trace.count("virtqueue_kick") >= trace.count("stats_request"),
                "the last answer",
            )
            traced.measure_clock()
            entries = trace.read()
            clock = traced.clock(entries)
            missing = trace.missing
    note_clock(notebook, clock)
    notebook.see("put into their callers by the compiler", ", ".join(missing) or "none")
    calls = [one for one in entries if one.name in _STAGES]
    for name in ("stats_request", "update_balloon_stats", "virtqueue_kick"):
        first = next((one for one in calls if one.name == name), None)
        if first is not None:
            notebook.block(f"the way to {name}", as_back_trace(first))
    polls = [one for one in traced.told if one.name == "send qom-set"]
    events = merged(polls, guest_events(calls, clock))
    notebook.block("what happened, by our clock", as_text(_plain(events)))
    requests = [one for one in calls if one.name == "stats_request"]
    _claim_ways(notebook, calls, requests)
    gaps_ns = [after.at_ns - before.at_ns for before, after in pairwise(requests)]
    notebook.table("from each request to the next", ("ms",), [(gap / 1e6,) for gap in gaps_ns])
    notebook.claim(
        "the requests are never closer than the interval: QEMU's timer starts with the answer",
        holds=bool(gaps_ns) and min(gaps_ns) >= _INTERVAL_S * 1_000_000_000 - _EARLY_NS,
    )
    notebook.claim(
        "the first request comes after QEMU was told to ask, none before",
        holds=clock.ours_ns(requests[0].at_ns) + clock.error_ns >= polls[0].at_ns,
    )
    notebook.conclude(
        f"{len(requests)} requests came {min(gaps_ns) / 1e9:.2f} s apart or more; each went from"
        f" the interrupt to a thread of a workqueue, and an answer back, in {len(_STAGES)} calls."
    )


def _plain(events: Sequence[Event]) -> list[Event]:
    return [Event(one.at_ns, one.end, one.name, one.detail) for one in events]


def _claim_ways(
    notebook: Notebook, calls: Sequence[TraceEntry], requests: Sequence[TraceEntry]
) -> None:
    notebook.claim(
        "each request is stats_request, called in an interrupt of the queue",
        holds=len(requests) >= _REQUESTS
        and all(one.is_in_interrupt and "vring_interrupt" in one.stack for one in requests),
    )
    answers = [one for one in calls if one.name != "stats_request"]
    notebook.claim(
        "everything else is done by a workqueue's thread, below update_balloon_stats_func",
        holds=all(
            one.is_worker and {"update_balloon_stats_func", "process_one_work"} <= set(one.stack)
            for one in answers
        ),
    )
    names = tuple(one.name for one in calls)
    notebook.claim(
        "each request is followed by collecting, one buffer and one kick, before the next comes",
        holds=names == _STAGES * len(requests),
    )


EXPERIMENT: Final = Experiment(
    name="stats-backtrace",
    question="How are periodic statistics sent: what are the back-traces?",
    answer="A timer in QEMU gives the driver its one buffer back, which interrupts the guest"
    " (stats_request); a workqueue's thread collects new values (update_balloon_stats), puts them"
    " into the buffer and kicks the queue, and QEMU starts its timer again.",
    explanation="The period is QEMU's alone: `guest-stats-polling-interval` of the device, in"
    " seconds of the guest's time. balloon_stats_poll_cb gives the held buffer back;"
    " vring_interrupt calls stats_request, which only queues update_balloon_stats_func. That"
    " collects, adds the buffer (virtqueue_add_outbuf) and kicks; QEMU's"
    " virtio_balloon_receive_stats keeps the values and sets the timer anew. A guest that does not"
    " answer is therefore not asked again.",
    sources=(
        "Virtio specification 1.3, section 5.5.6.3 (Memory Statistics)",
        "Linux drivers/virtio/virtio_balloon.c, stats_request, stats_handle_request",
        "Linux drivers/virtio/virtio_balloon.c, update_balloon_stats_func, update_balloon_stats",
        "QEMU hw/virtio/virtio-balloon.c, balloon_stats_poll_cb, virtio_balloon_receive_stats",
        "QEMU hw/virtio/virtio-balloon.c, balloon_stats_change_timer",
    ),
    runs={Kernel.QEMU: _on_qemu},
)
