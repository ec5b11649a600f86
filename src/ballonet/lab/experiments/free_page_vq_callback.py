"""Who hears of used buffers on the queue of free page hints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from ballonet.errors import GuestError
from ballonet.lab.experiment import Experiment, Kernel
from ballonet.lab.function_trace import FunctionTrace
from ballonet.lab.hinting_migration import HINTING, hinting_migration
from ballonet.lab.notebook import Notebook
from ballonet.lab.trace_lines import TraceEntry
from ballonet.lab.traced_guest import TracedGuest
from ballonet.lab.waiting import wait_for

__all__ = ["EXPERIMENT"]

_MEMORY_BYTES: Final = 256 << 20
_TARGET_BYTES: Final = 252 << 20
_COMMANDS: Final = 2  # the driver's first word of a round, and its last
#: On x86-64 the first argument is in %di, the second in %si; the handler has its queue second.
_ADD_BLOCK: Final = "virtqueue_add_inbuf"
_ADD_MESSAGE: Final = "virtqueue_add_outbuf"
_HANDLER: Final = "vring_interrupt"
_IOTHREAD: Final = "iothread0"
_TAKEN: Final = "virtqueue_pop"  # in QEMU's log
_COLLECT: Final = "virtqueue_get_buf"
_PROBES: Final = (
    f"{_ADD_BLOCK} queue=%di",
    f"{_ADD_MESSAGE} queue=%di",
    f"{_HANDLER} queue=%si",
    f"r {_COLLECT} got=$retval",
)


def _on_qemu(notebook: Notebook) -> None:
    with TracedGuest(_MEMORY_BYTES, *HINTING, qemu_events=(_TAKEN,)) as traced:
        notebook.runs_on(traced.guest.release, "QEMU")
        with traced.tracing((), probes=_PROBES) as trace:
            notebook.step(f"balloon {_TARGET_BYTES >> 20}: messages on a queue with a callback")
            traced.execute("balloon", value=_TARGET_BYTES)
            wait_for(lambda: traced.actual_bytes() == _TARGET_BYTES, "the target")
            resized = trace.read()
            trace.clear()
            notebook.step("a migration begins; a whole round of hints goes by")
            first = _round(traced, trace, rounds=1)
            notebook.step("it is cancelled, and another one has a round, too")
            hinted = _round(traced, trace, rounds=2)
    inflate = _queue(resized, _ADD_MESSAGE)
    hints = _queue(hinted, _ADD_BLOCK)
    counted = (_ADD_MESSAGE, _ADD_BLOCK, _HANDLER)
    rows: list[tuple[str | int, ...]] = [
        (
            "inflateq, while the balloon grows",
            *(_count(resized, what, inflate) for what in counted),
        ),
        (
            "free_page_vq, in two rounds of hints",
            *(_count(hinted, what, hints) for what in counted),
        ),
    ]
    headings = ("queue", "messages", "blocks", "calls of its interrupt handler")
    notebook.table("what was put on two queues, and interrupts that told of it", headings, rows)
    blocks = _count(hinted, _ADD_BLOCK, hints)
    messages = _count(hinted, _ADD_MESSAGE, hints)
    looks = [one for one in hinted if one.name == _COLLECT]
    collected = [one for one in looks if _value(one, "got") != 0]
    notebook.see("looks of the driver for used buffers in the two rounds", len(looks))
    notebook.see("used buffers that it found", len(collected))
    notebook.claim(
        "the handler of a queue with a callback is called, and seen",
        holds=_count(resized, _HANDLER, inflate) > 0,
    )
    notebook.claim(
        "each round has a first word, a last word and blocks between",
        holds=messages == 2 * _COMMANDS and 0 < _count(first, _ADD_BLOCK, hints) < blocks,
    )
    notebook.claim(
        "no interrupt handler is called for free_page_vq in two whole rounds",
        holds=_count(hinted, _HANDLER, hints) == 0,
    )
    notebook.claim(
        "the driver collects used buffers itself, on its worker: by now all of the first round",
        holds=_added(first, hints) <= len(collected) <= blocks + messages
        and all(one.is_worker for one in looks),
    )
    notebook.conclude(
        f"In two rounds {blocks} blocks and {messages} messages went over free_page_vq; its"
        f" handler was called {_count(hinted, _HANDLER, hints)} times, and the worker found"
        f" {len(collected)} used buffers by looking {len(looks)} times."
    )


def _round(traced: TracedGuest, trace: FunctionTrace, *, rounds: int) -> list[TraceEntry]:
    """What the kernel did up to the end of this round, when QEMU has taken everything."""
    with hinting_migration(traced):
        wait_for(
            lambda: trace.count(_ADD_MESSAGE) >= rounds * _COMMANDS, "the end of the driver's hints"
        )
        entries = trace.read()
        queue = _queue(entries, _ADD_BLOCK)
        wait_for(lambda: _taken_by_iothread(traced) >= _added(entries, queue), "QEMU's reading")
        return entries


def _added(entries: Sequence[TraceEntry], queue: int) -> int:
    """What was put on a queue."""
    return _count(entries, _ADD_BLOCK, queue) + _count(entries, _ADD_MESSAGE, queue)


def _taken_by_iothread(traced: TracedGuest) -> int:
    """What was taken off the queue of hints: QEMU has other threads for other queues."""
    names = traced.threads()
    log = [one for one in traced.qemu_log() if one.name == _TAKEN]
    return sum(_IOTHREAD in names.get(one.thread, "") for one in log)


def _queue(entries: Iterable[TraceEntry], name: str) -> int:
    """The queue that something is added to. Raises: GuestError, if there are several, or none."""
    found = {_value(one, "queue") for one in entries if one.name == name}
    if len(found) != 1:
        raise GuestError(f"{name} was called for {len(found)} queues, not for one")
    return found.pop()


def _count(entries: Sequence[TraceEntry], name: str, queue: int) -> int:
    return sum(one.name == name and _value(one, "queue") == queue for one in entries)


def _value(entry: TraceEntry, name: str) -> int:
    """What a probe has noted."""
    _, _, rest = entry.detail.partition(f"{name}=")
    return int(rest.split()[0], 16)


EXPERIMENT: Final = Experiment(
    name="free-page-vq-callback",
    question="Why has free_page_vq no callback?",
    answer="Nobody waits for its buffers: the driver gives hints away and looks by itself for used"
    " buffers before it adds the next, so an interrupt for each would only cost time.",
    explanation="On the queues for inflating and deflating the driver sleeps until the host has"
    " used its message, so their callback (balloon_ack) has to wake it. A hinted block stays in the"
    " guest's hands in any case until the host says DONE, by a change of the configuration, which"
    " has an interrupt of its own. Used buffers only mean that there is room on the queue again,"
    " and get_free_page_and_send takes them off with virtqueue_get_buf before each block. Without a"
    " callback the driver also tells the device that it wants no interrupt.",
    sources=(
        "Virtio specification 1.3, section 5.5.6.5 (Free Page Hinting)",
        "Linux drivers/virtio/virtio_balloon.c, init_vqs, get_free_page_and_send",
        "Linux drivers/virtio/virtio_ring.c, vring_interrupt, vring_create_virtqueue_split",
    ),
    runs={Kernel.QEMU: _on_qemu},
)
