"""In which contexts statistics are asked for and collected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ballonet.lab.experiment import Experiment, Kernel
from ballonet.lab.notebook import Notebook
from ballonet.lab.trace_lines import TraceEntry
from ballonet.lab.trace_lines import as_text as as_back_trace
from ballonet.lab.traced_guest import TracedGuest
from ballonet.lab.waiting import wait_for

__all__ = ["EXPERIMENT"]

_MEMORY_BYTES: Final = 256 << 20
_REQUESTS: Final = 3
_WORK: Final = "update_balloon_stats_func"
#: Takes the lock that keeps processors from coming and going; who has to wait for it sleeps.
_SLEEPS: Final = "cpus_read_lock"
_FUNCTIONS: Final = ("stats_request", _WORK, "all_vm_events", _SLEEPS)
_QUEUED: Final = "workqueue_queue_work"


def _on_qemu(notebook: Notebook) -> None:
    with TracedGuest(_MEMORY_BYTES) as traced:
        notebook.runs_on(traced.guest.release, "QEMU")
        with traced.tracing(_FUNCTIONS, events=(f"workqueue/{_QUEUED}",)) as trace:
            notebook.step("QEMU asks for statistics every second")
            traced.poll_statistics(1)
            wait_for(lambda: trace.count(_WORK) >= _REQUESTS, "a third request")
            traced.poll_statistics(0)
            wait_for(lambda: trace.count(_SLEEPS) >= trace.count("stats_request"), "the last one")
            entries = trace.read()
    asked = [one for one in entries if one.name == "stats_request"]
    queued = [one for one in entries if one.name == _QUEUED and f"function={_WORK} " in one.detail]
    work = [one for one in entries if one.name == _WORK]
    locks = [one for one in entries if one.name == _SLEEPS and _WORK in one.stack]
    _table(notebook, {"asks": asked, "queues": queued, "works": work, "locks": locks})
    notebook.see("the kernel's words at queueing", queued[0].detail if queued else "none")
    if locks:
        notebook.block(
            "collecting takes a lock for which it may have to wait", as_back_trace(locks[0])
        )
    notebook.claim(
        "QEMU's request is heard in an interrupt, where nothing may sleep",
        holds=bool(asked) and all(one.is_in_interrupt for one in asked),
    )
    notebook.claim(
        "all that is done there is to queue work, on the workqueue that stops for a suspend",
        holds=len(queued) >= len(asked) > 0
        and all(
            one.is_in_interrupt and "workqueue=events_freezable " in f"{one.detail} "
            for one in queued
        ),
    )
    notebook.claim(
        "the work is done on a thread, with interrupts on",
        holds=bool(work) and all(one.is_worker and not one.has_interrupts_off for one in work),
    )
    notebook.claim(
        "it calls what may sleep each time, and there it may",
        holds=len(locks) >= len(work) and all(_may_sleep(one) for one in locks),
    )
    notebook.conclude(
        f"All {len(asked)} requests were heard in an interrupt; all {len(work)} collections ran on"
        f" a thread, and took the lock on processors, for which one may sleep, {len(locks)} times."
    )


def _may_sleep(entry: TraceEntry) -> bool:
    """On a thread, with interrupts on, and preemption not forbidden."""
    return entry.is_worker and not entry.has_interrupts_off and entry.flags[3:4] == "."


def _table(notebook: Notebook, groups: dict[str, Sequence[TraceEntry]]) -> None:
    rows = [
        (what, group[0].name, group[0].task, group[0].flags, group[0].is_in_interrupt, len(group))
        for what, group in groups.items()
        if group
    ]
    notebook.table(
        "the contexts, of the first of each",
        ("what", "function or event", "task", "signs", "in an interrupt", "times"),
        rows,
    )


EXPERIMENT: Final = Experiment(
    name="stats-workqueue",
    question="Why are statistics sent from a workqueue, and not where the request is heard?",
    answer="The request is heard in an interrupt, where the kernel may not sleep, and collecting"
    " statistics may have to: it takes a lock and allocates memory.",
    explanation="stats_request is the callback of the statistics queue, so it is called by the"
    " interrupt's handler, and the signs of the trace say so. all_vm_events, which it would have to"
    " call, keeps processors from going away while it adds up their counters (cpus_read_lock): it"
    " waits while one is switched off or on. Adding the buffer may allocate memory with GFP_KERNEL,"
    " which may wait, too. The workqueue is the freezable one, so that nothing uses the device"
    " while the machine is suspended. Changing the size goes through a workqueue for the same"
    " reason: it allocates pages and waits for the host.",
    sources=(
        "Linux drivers/virtio/virtio_balloon.c, stats_request, update_balloon_stats_func",
        "Linux mm/vmstat.c, all_vm_events; kernel/cpu.c, cpus_read_lock",
        "Linux Documentation/core-api/workqueue.rst; Documentation/trace/ftrace.rst (the signs)",
    ),
    runs={Kernel.QEMU: _on_qemu},
)
