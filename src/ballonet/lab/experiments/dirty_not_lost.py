"""A page is hinted, taken back and written while the guest moves: what arrives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ballonet.guests.machine_process import MachineProcess
from ballonet.lab.experiment import Experiment, Kernel
from ballonet.lab.gate import Gate
from ballonet.lab.memory_copy import MemoryCopy
from ballonet.lab.moving_machines import (
    KERNEL,
    begin_migration,
    differing_pages,
    finished_migration,
    machines,
    memory_of,
    steps_of,
)
from ballonet.lab.notebook import Notebook
from ballonet.lab.waiting import wait_until
from ballonet.units import bytes_to_pages, format_bytes, pages_to_bytes

__all__ = ["EXPERIMENT", "has_rounds_between_logs"]

_MEMORY_BYTES: Final = 128 << 20
#: Keeps the first pass from being over before the guest has acted: it has this to send.
_KEPT_BYTES: Final = 16 << 20
_PASSES_BYTES: Final = 1 << 20
_TAKEN_BYTES: Final = 48 << 20
_CAPABILITIES: Final = {"x-ballonet-hints": True, "x-ballonet-verify": True}
#: The engine waits no longer than until the guest has no more to name.
_PARAMETERS: Final = {"x-ballonet-head-start": 60_000}
_ROUND_BEGINS, _ROUND_STOPPED = "hint round 0x", "hint round stopped"
_SEES, _LOG_READ = "every write is seen", "guest's log read and begun anew"


def _on_embedded(notebook: Notebook) -> None:
    notebook.runs_on("", KERNEL)
    with (
        machines(2, _MEMORY_BYTES) as (directory, (source, destination)),
        Gate(directory / "gate", destination.uri, _PASSES_BYTES) as gate,
        memory_of(source) as here,
        memory_of(destination) as there,
        MemoryCopy(here) as copy,
    ):
        notebook.step("a guest uses most of its memory, frees it again, and keeps a little")
        source.ask("use_memory", percent=90)
        source.ask("hog", size=_KEPT_BYTES)
        notebook.see("MemFree", source.ask("meminfo")["MemFree"], "bytes")
        notebook.step("it begins to move, and names what is free")
        begin_migration(source, gate.uri, _CAPABILITIES, _PARAMETERS)
        wait_until(lambda: _has_hinted(source), "the guest hints nothing")
        free_pages = bytes_to_pages(source.ask("meminfo")["MemFree"])
        notebook.see("free and not hinted", free_pages, "pages")
        notebook.step(f"a process takes {format_bytes(_TAKEN_BYTES)} and writes to all of it")
        copy.take()
        source.ask("hog", size=_TAKEN_BYTES)
        written = copy.changed()
        notebook.see("written meanwhile", int(np.count_nonzero(written)), "pages")
        notebook.step("the guest is paused, so that nothing is written at the destination either")
        source.execute("stop")
        gate.open()
        look = finished_migration(source)
        notebook.block("steps of the migration", "\n".join(steps := steps_of(source)))
        differing = differing_pages(here, there)
        _judge(notebook, look, steps, written, differing, free_pages)
        notebook.step("it goes on, and its kernel looks at every page of both processes")
        destination.execute("cont")
        looked = destination.ask("release_hogs")
        notebook.claim("every page holds the mark that was written last", holds=looked == 2)


def _has_hinted(source: MachineProcess) -> bool:
    return any(step.endswith("pages hinted") for step in steps_of(source))


def _judge(
    notebook: Notebook,
    look: dict[str, Any],
    steps: Sequence[str],
    written: NDArray[np.bool_],
    differing: NDArray[np.bool_],
    free_pages: int,
) -> None:
    """Compare both memories, page by page."""
    written_pages, left_out = int(np.count_nonzero(written)), int(np.count_nonzero(differing))
    hinted = int(look["ram"]["x-ballonet-hinted"])
    lost = int(np.count_nonzero(written & differing))
    notebook.see("hinted", hinted, "pages")
    notebook.see("not as at the source: hinted, never sent", left_out, "pages")
    notebook.see("compared by the destination", look["ram"]["x-ballonet-verified"], "pages")
    notebook.see("written after the hint, and not as at the source", lost, "pages")
    notebook.claim(
        "each round of hints begins after the log was begun anew, and ends before it is read",
        holds=has_rounds_between_logs(steps),
    )
    notebook.claim("pages that were hinted were not sent", holds=0 < left_out <= hinted)
    notebook.claim(
        "most of what was written had been hinted: so much was not free otherwise",
        holds=written_pages > 2 * free_pages,
    )
    notebook.claim("all of it is at the destination, every byte", holds=not lost)
    notebook.conclude(
        f"{format_bytes(pages_to_bytes(hinted))} were hinted, and"
        f" {format_bytes(pages_to_bytes(written_pages - free_pages))} of it or more were taken back"
        f" and written during the round: {lost} of those pages differ at the destination, while"
        f" {format_bytes(pages_to_bytes(left_out))} that stayed free were not sent."
    )


def has_rounds_between_logs(steps: Sequence[str]) -> bool:
    """Every round lies between two readings of the log; there is a round at all."""
    rounds, is_open, is_anew = 0, False, False
    for step in steps:
        if step.startswith(_ROUND_BEGINS):
            if is_open or not is_anew:
                return False
            rounds, is_open = rounds + 1, True
        elif step.startswith(_ROUND_STOPPED):
            is_open, is_anew = False, False
        elif step.startswith((_SEES, _LOG_READ)):
            if is_open:
                return False
            is_anew = True
    return rounds > 0 and not is_open


EXPERIMENT: Final = Experiment(
    name="dirty-not-lost",
    question="Why is no dirty page lost, although the guest may use a hinted page at any moment?",
    answer="Because a hint counts only between two readings of the log of written pages: whatever"
    " is written after the hint is in the next log, and is sent.",
    explanation="The log is read and begins anew in one step, then the round begins: from here on"
    " each write is noted. The hint takes out what the log before said, never what is noted since."
    " Before the log is read again the round is stopped, so no hint can come after it. A page that"
    " is hinted and used again is therefore sent in the next pass, and one that stays free never."
    " The guest takes hinted pages back by its shrinker when memory gets short, and tells nobody."
    " It is our own kernel and migration: QEMU, emulating a guest, loses pages of its own accord,"
    " hints or not, so nothing could be told from a comparison.",
    sources=(
        "Virtio specification 1.3, section 5.5.6.5 (Free Page Hinting)",
        "QEMU migration/ram.c, migration_bitmap_sync_precopy, qemu_guest_free_page_hint",
        "QEMU hw/virtio/virtio-balloon.c, virtio_balloon_free_page_hint_notify",
        "Linux drivers/virtio/virtio_balloon.c, shrink_free_pages",
    ),
    runs={Kernel.EMBEDDED: _on_embedded},
)
