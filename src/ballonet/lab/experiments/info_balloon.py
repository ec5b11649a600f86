"""Whether `info balloon` asks the guest."""

from __future__ import annotations

from typing import Final

from ballonet.lab.experiment import Experiment, Kernel
from ballonet.lab.notebook import Notebook
from ballonet.lab.trace_lines import MARK, TraceEntry
from ballonet.lab.traced_guest import TracedGuest
from ballonet.lab.virtio_driver import VirtioDriver
from ballonet.lab.waiting import wait_for
from ballonet.units import format_bytes

__all__ = ["EXPERIMENT"]

_MEMORY_BYTES: Final = 256 << 20
_TARGET_BYTES: Final = 248 << 20
_QUESTIONS: Final = 50
#: Everything of the driver, and everything by which virtio's devices reach it.
_FUNCTIONS: Final = (
    *("virtballoon_*", "update_balloon_*", "stats_request", "leak_balloon", "tell_host"),
    *("balloon_ack", "vring_interrupt", "vp_config_changed", "vp_interrupt", "vp_get", "vp_set"),
)


def _on_qemu(notebook: Notebook) -> None:
    with TracedGuest(_MEMORY_BYTES) as traced:
        notebook.runs_on(traced.guest.release, "QEMU")
        with traced.tracing(_FUNCTIONS, has_stacks=False) as trace:
            notebook.step(f"balloon {_TARGET_BYTES >> 20}: the guest gives memory, for comparison")
            traced.execute("balloon", value=_TARGET_BYTES)
            wait_for(lambda: traced.actual_bytes() == _TARGET_BYTES, "the target")
            resized = _calls(trace.read())
            trace.clear()
            notebook.step(f"info balloon and query-balloon are asked {_QUESTIONS} times each")
            answers = {_ask(traced) for _ in range(_QUESTIONS)}
            traced.measure_clock()  # whatever the guest was told before it has heard by now
            asked = trace.read()
        notebook.step("the guest is stopped, and asked about")
        traced.execute("stop")
        stopped = _ask(traced)
        traced.execute("cont")
        notebook.step("its driver is taken away, which empties the balloon; it is asked about")
        VirtioDriver(traced.guest.shell).unbind()
        alone = _ask(traced)
    notebook.see("calls of the driver, or into it, for one `balloon`", len(resized))
    notebook.see(f"and for {2 * _QUESTIONS} questions", len(_calls(asked)))
    notebook.table(
        "answers of query-balloon and info balloon",
        ("when", "query-balloon", "info balloon"),
        [
            ("running", *_printed(next(iter(answers)))),
            ("stopped", *_printed(stopped)),
            ("without a driver", *_printed(alone)),
        ],
    )
    marks = [one for one in asked if one.name == MARK]
    notebook.claim("a change of size does call the driver, and is seen", holds=len(resized) > 0)
    notebook.claim(
        "no question does: the driver is not called, though the trace is on",
        holds=not _calls(asked) and bool(marks),
    )
    notebook.claim(
        "the answer is what the driver last wrote",
        holds=answers == {(_TARGET_BYTES, _TARGET_BYTES >> 20)},
    )
    notebook.claim("a stopped guest is no hindrance", holds={stopped} == answers)
    notebook.claim(
        "nor is a guest without a driver", holds=alone == (_MEMORY_BYTES, _MEMORY_BYTES >> 20)
    )
    notebook.conclude(
        f"{2 * _QUESTIONS} questions made {len(_calls(asked))} calls in the guest, where one change"
        f" of size made {len(resized)}; a stopped guest and one without a driver were answered for,"
        " too."
    )


def _ask(traced: TracedGuest) -> tuple[int, int]:
    """What both commands say: bytes, and MiB."""
    said = traced.guest.monitor.execute("human-monitor-command", **{"command-line": "info balloon"})
    return traced.actual_bytes(), int(str(said).strip().removeprefix("balloon: actual="))


def _printed(answer: tuple[int, int]) -> tuple[str, str]:
    size_bytes, size_mib = answer
    return format_bytes(size_bytes), f"balloon: actual={size_mib}"


def _calls(entries: list[TraceEntry]) -> list[TraceEntry]:
    return [one for one in entries if one.name != MARK]


EXPERIMENT: Final = Experiment(
    name="info-balloon",
    question="Does `info balloon` reach the guest?",
    answer="No: QEMU answers from the last `actual` that the driver has written, and the guest is"
    " not told of the question.",
    explanation="`info balloon` and query-balloon end in virtio_balloon_stat, which takes the"
    " memory of the machine less the field `actual` of the device's configuration. It is as new as"
    " the driver's last write: after each message of up to 256 pages, and when the driver leaves."
    " A guest that was stopped, or that hangs, or that lies, makes no difference to the answer.",
    sources=(
        "QEMU hw/virtio/virtio-balloon.c, virtio_balloon_stat, virtio_balloon_set_config",
        "QEMU softmmu/balloon.c (system/balloon.c), qmp_query_balloon",
        "Linux drivers/virtio/virtio_balloon.c, update_balloon_size",
    ),
    runs={Kernel.QEMU: _on_qemu},
)
