"""The two paths of free page hints: what asks for them, what brings them, and on which threads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from ballonet.lab.clock_offset import SharedClock
from ballonet.lab.experiment import Experiment, Kernel
from ballonet.lab.hinting_migration import HINTING, hinting_migration
from ballonet.lab.notebook import Notebook
from ballonet.lab.qemu_log import QemuEvent
from ballonet.lab.time_line import Event, as_text, collapsed, merged
from ballonet.lab.trace_lines import TraceEntry
from ballonet.lab.trace_lines import as_text as as_back_trace
from ballonet.lab.traced_guest import TracedGuest, guest_events, note_clock
from ballonet.lab.waiting import wait_for

__all__ = ["EXPERIMENT"]

_MEMORY_BYTES: Final = 256 << 20
_SYNC: Final = "migration_bitmap_sync_start"
_SYNCED: Final = "migration_bitmap_sync_end"
_POP: Final = "virtqueue_pop"
_FUNCTIONS: Final = (
    *("virtballoon_changed", "report_free_page_func", "return_free_pages_to_mm"),
    *("virtqueue_add_outbuf", "virtqueue_add_inbuf"),
)
_SHOWN: Final = ("virtballoon_changed", "virtqueue_add_inbuf", "return_free_pages_to_mm")
_COMMANDS: Final = 2  # the driver's first word, and its last
_ROUND_NS: Final = 600_000_000_000
_IOTHREAD: Final = "iothread0"
#: Names of QEMU's threads, by their numbers.
Threads = Mapping[int, str]


def _on_qemu(notebook: Notebook) -> None:
    with TracedGuest(_MEMORY_BYTES, *HINTING, qemu_events=(_SYNC, _SYNCED, _POP)) as traced:
        notebook.runs_on(traced.guest.release, "QEMU")
        with traced.tracing(_FUNCTIONS) as trace:
            traced.measure_clock()
            earlier = len(traced.qemu_log())
            before = traced.threads()
            notebook.step("the guest is migrated, to nowhere and slowly; QEMU asks for hints")
            with hinting_migration(traced):
                wait_for(
                    lambda: trace.count("virtqueue_add_outbuf") >= _COMMANDS,
                    "the end of the driver's hints",
                )
                during = traced.threads()
                asked = trace.read()
                traced.measure_clock()
                notebook.step("the migration is cancelled")
            wait_for(lambda: trace.count("return_free_pages_to_mm"), "the pages' return")
            traced.measure_clock()
            calls = trace.read()
        log = traced.qemu_log()[earlier:]
        events = traced.qemu_events()[earlier:]
    clock = traced.clock(calls)
    note_clock(notebook, clock)
    ended = calls[len(asked) :]
    events = _plain(merged(events, traced.told, guest_events(calls, clock)))
    notebook.block(
        "what happened, by our clock", as_text(_shortened(events, traced.told[-1].at_ns))
    )
    _note_threads(notebook, log, during)
    for name in _SHOWN:
        first = next((one for one in calls if one.name == name), None)
        if first is not None:
            notebook.block(f"the guest's way to {name}", as_back_trace(first))
    _claim_threads(notebook, log, before, during)
    _claim_guest(notebook, asked, ended)
    _claim_cause(notebook, events, clock)
    blocks = sum(one.name == "virtqueue_add_inbuf" for one in asked)
    notebook.conclude(
        f"QEMU's thread {_runners(log, _SYNC, during)} looked at what was written and asked for"
        f" hints; the guest's worker put {blocks} blocks of free memory on the queue, which QEMU's"
        f" thread {_runners(log, _POP, during)} took off it."
    )


def _plain(events: Sequence[Event]) -> list[Event]:
    """Without addresses, which say nothing to a reader."""
    return [
        Event(one.at_ns, one.end, one.name, "" if one.name == _POP else one.detail)
        for one in events
    ]


def _shortened(events: Sequence[Event], cancelled_ns: int) -> list[Event]:
    """A round is told as one, however long it takes; and then what its end brings."""
    asked = [one for one in events if one.at_ns < cancelled_ns]
    ended = [one for one in events if one.at_ns >= cancelled_ns]
    return [*collapsed(asked, within_ns=_ROUND_NS), *collapsed(ended, within_ns=_ROUND_NS)]


def _runners(log: Sequence[QemuEvent], name: str, threads: Threads) -> str:
    """Names of the threads that did something."""
    numbers = {one.thread for one in log if one.name == name}
    return ", ".join(sorted(threads.get(number, "one that is gone") for number in numbers))


def _note_threads(notebook: Notebook, log: Sequence[QemuEvent], threads: Threads) -> None:
    rows = []
    for number, name in threads.items():
        did = [one.name for one in log if one.thread == number]
        counts = (f"{did.count(what)} {what}" for what in dict.fromkeys(did))
        rows.append((name, ", ".join(counts) or "-"))
    notebook.table("QEMU's threads, and what they wrote down", ("thread", "did"), rows)


def _claim_threads(
    notebook: Notebook, log: Sequence[QemuEvent], before: Threads, during: Threads
) -> None:
    syncs = {one.thread for one in log if one.name == _SYNC}
    pops = {one.thread for one in log if one.name == _POP}
    notebook.claim(
        "the dirty log is read by a thread that is there for this migration only",
        holds=bool(syncs) and not syncs & set(before) and syncs <= set(during),
    )
    notebook.claim(
        "hints are taken off their queue by the I/O thread that the balloon was given, alone",
        holds=bool(pops) and all(_IOTHREAD in during.get(number, "") for number in pops),
    )


def _claim_guest(
    notebook: Notebook, asked: Sequence[TraceEntry], ended: Sequence[TraceEntry]
) -> None:
    for what, calls in (("asks for hints", asked), ("ends the round", ended)):
        changes = [one for one in calls if one.name == "virtballoon_changed"]
        work = [one for one in calls if one.name == "report_free_page_func"]
        notebook.claim(
            f"QEMU {what} by a change of its configuration, heard in an interrupt, and a worker"
            " does the rest",
            holds=bool(changes and work)
            and all(one.is_in_interrupt for one in changes)
            and all(one.is_worker and "process_one_work" in one.stack for one in work),
        )
    blocks = [one for one in asked if one.name == "virtqueue_add_inbuf"]
    notebook.claim(
        "blocks of free memory are put on the queue by that worker",
        holds=bool(blocks)
        and all(one.is_worker and "report_free_page_func" in one.stack for one in blocks),
    )
    returns = [one for one in ended if one.name == "return_free_pages_to_mm"]
    notebook.claim(
        "they go back to the kernel when the migration ends, and not before",
        holds=bool(returns)
        and all(one.is_worker for one in returns)
        and all(one.name != "return_free_pages_to_mm" for one in asked),
    )


def _claim_cause(notebook: Notebook, events: Sequence[Event], clock: SharedClock) -> None:
    synced = next((one for one in events if one.name == _SYNCED), None)
    changed = next((one for one in events if one.name == "virtballoon_changed"), None)
    notebook.claim(
        "the guest is asked after the first look at the dirty log, not before it",
        holds=synced is not None
        and changed is not None
        and changed.at_ns + clock.error_ns >= synced.at_ns,
    )


EXPERIMENT: Final = Experiment(
    name="hint-paths",
    question="Which two paths does free page hinting take, and what is locked?",
    answer="One path asks: the migration's thread reads the dirty log and has the device change its"
    " command id; the other brings: the guest's worker puts free blocks on the queue, and QEMU's"
    " I/O thread takes them and clears their bits in the migration's bitmap.",
    explanation="Asking: migration_bitmap_sync_precopy calls the balloon's notifier before and"
    " after each sync; the notifier stops the old round, starts a new one and raises the interrupt"
    " of a changed configuration, which queues report_free_page_func in the guest. Bringing: a kick"
    " wakes virtio_ballloon_get_free_page_hints (it is spelt so) on the I/O thread, and"
    " qemu_guest_free_page_hint clears the bits. The threads are seen here; the locks are read in"
    " the source, not seen: free_page_lock is held for each element that is taken and by whoever"
    " starts or ends a round, so that after the end of a round no hint of it is applied any more;"
    " bitmap_mutex guards the bitmap; free_page_cond lets the I/O thread wait while the guest is"
    " stopped.",
    sources=(
        "Virtio specification 1.3, section 5.5.6.5 (Free Page Hinting)",
        "Linux drivers/virtio/virtio_balloon.c, virtballoon_changed, report_free_page_func",
        "QEMU hw/virtio/virtio-balloon.c, virtio_balloon_free_page_hint_notify",
        "QEMU hw/virtio/virtio-balloon.c, virtio_ballloon_get_free_page_hints, get_free_page_hints",
        "QEMU migration/ram.c, migration_bitmap_sync_precopy, qemu_guest_free_page_hint",
    ),
    runs={Kernel.QEMU: _on_qemu},
)
