"""Who begins on the statistics queue: buffers against requests."""

from __future__ import annotations

from typing import Final

from ballonet.lab.experiment import Experiment, Kernel
from ballonet.lab.notebook import Notebook
from ballonet.lab.trace_lines import TraceEntry
from ballonet.lab.trace_lines import as_text as as_back_trace
from ballonet.lab.traced_guest import TracedGuest
from ballonet.lab.virtio_driver import VirtioDriver
from ballonet.lab.waiting import wait_for

__all__ = ["EXPERIMENT"]

_MEMORY_BYTES: Final = 256 << 20
_REQUESTS: Final = 3
_FUNCTIONS: Final = ("stats_request", "virtqueue_add_outbuf", "virtqueue_kick", "virtballoon_probe")


def _on_qemu(notebook: Notebook) -> None:
    with TracedGuest(_MEMORY_BYTES) as traced:
        notebook.runs_on(traced.guest.release, "QEMU")
        driver = VirtioDriver(traced.guest.shell)
        notebook.step("the driver is taken away from its device")
        driver.unbind()
        with traced.tracing(_FUNCTIONS) as trace:
            notebook.step("it comes back; QEMU is not told to ask for statistics")
            driver.bind()
            wait_for(lambda: trace.count("virtqueue_kick"), "the driver's first buffer")
            before = trace.read()
            values = _values(traced)
            trace.clear()
            notebook.step("QEMU asks every second")
            traced.poll_statistics(1)
            wait_for(lambda: trace.count("stats_request") >= _REQUESTS, "a third request")
            traced.poll_statistics(0)
            wait_for(
                lambda: trace.count("virtqueue_kick") >= trace.count("stats_request"),
                "the last answer",
            )
            after = trace.read()
    first, answers = _named(before, "virtqueue_add_outbuf"), _named(after, "virtqueue_add_outbuf")
    asked, requests = _named(before, "stats_request"), _named(after, "stats_request")
    notebook.table(
        "buffers of the driver against requests of the host",
        ("when", "requests", "buffers"),
        [
            ("at the probe", len(asked), len(first)),
            ("while QEMU asks", len(requests), len(answers)),
        ],
    )
    if first:
        notebook.block("where the first buffer comes from", as_back_trace(first[0]))
    if answers:
        notebook.block("where each further one comes from", as_back_trace(answers[-1]))
    notebook.see(
        "MemTotal that QEMU knows before it has asked", values["stat-total-memory"], "bytes"
    )
    notebook.claim(
        "the driver gives one buffer when it meets the device, without being asked",
        holds=len(first) == 1 and not asked and "virtballoon_probe" in first[0].stack,
    )
    notebook.claim(
        "the device has values then, though it never asked", holds=values["stat-total-memory"] > 0
    )
    notebook.claim(
        "afterwards each request, which gives the buffer back, is answered by one buffer",
        holds=len(requests) == len(answers) >= _REQUESTS,
    )
    order = [one.name for one in after if one.name in {"stats_request", "virtqueue_add_outbuf"}]
    notebook.claim(
        "the request is first, the buffer follows",
        holds=order == ["stats_request", "virtqueue_add_outbuf"] * len(requests),
    )
    notebook.conclude(
        f"The driver gave {len(first)} buffer at its start, before any request, and then"
        f" {len(answers)} for {len(requests)} requests: the host holds one nearly all the time, and"
        " asks by giving it back."
    )


def _values(traced: TracedGuest) -> dict[str, int]:
    """What QEMU knows; it is -1, as an unsigned number, while it knows nothing."""
    found = traced.guest.property_of_balloon("guest-stats")
    stats = found["stats"] if isinstance(found, dict) else {}
    unknown = (1 << 64) - 1
    return {name: 0 if value in (unknown, -1) else int(value) for name, value in stats.items()}


def _named(entries: list[TraceEntry], name: str) -> list[TraceEntry]:
    return [one for one in entries if one.name == name]


EXPERIMENT: Final = Experiment(
    name="stats-reverse-queue",
    question="Why does the statistics queue run backwards?",
    answer="On a virtqueue only the driver can offer buffers, but here the host is the one who"
    " asks: so the driver offers one buffer in advance, and the host asks by using it up.",
    explanation="Other queues carry requests of the guest, which the device answers by marking the"
    " buffer used. For statistics the host is the one who wants something, and it cannot begin a"
    " conversation on a virtqueue. The driver therefore puts one buffer there when it starts; the"
    " device reads it and keeps it. To ask again it marks the buffer used, which interrupts the"
    " driver, and the driver offers a new one with fresh values. There is one buffer at any time,"
    " in the hands of the one or the other.",
    sources=(
        "Virtio specification 1.3, section 5.5.6.3 (Memory Statistics)",
        "Linux drivers/virtio/virtio_balloon.c, init_vqs, stats_request, stats_handle_request",
        "QEMU hw/virtio/virtio-balloon.c, virtio_balloon_receive_stats, balloon_stats_poll_cb",
    ),
    runs={Kernel.QEMU: _on_qemu},
)
