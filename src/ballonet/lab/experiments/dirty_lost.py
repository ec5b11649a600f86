"""The order in which a migration would lose a page, played."""

from __future__ import annotations

from typing import Final

from ballonet.lab.experiment import Experiment, Kernel
from ballonet.lab.notebook import Notebook
from ballonet.lab.scripted_move import Clearing, Hinting, Moved, move

__all__ = ["EXPERIMENT"]


def _on_script(notebook: Notebook) -> None:
    notebook.runs_on("", "a guest of eight pages that acts by a script, moved by ballonet's passes")
    right = _move(notebook, "all in order", Hinting.IN_ITS_ROUND, Clearing.WHEN_READ)
    late = _move(
        notebook,
        "the hint is heard after the log was read, and says that it is of the round before",
        Hinting.LATE,
        Clearing.WHEN_READ,
    )
    wrong = _move(
        notebook,
        "the hint is heard after the log was read, and counts for the round under way",
        Hinting.LATE_AS_NEW,
        Clearing.WHEN_READ,
    )
    after = _move(
        notebook,
        "the log begins anew only when the page was sent",
        Hinting.IN_ITS_ROUND,
        Clearing.WHEN_SENT,
    )
    notebook.claim("in order: the destination has what was written", holds=not right.is_lost)
    notebook.claim("a late hint of an older round changes nothing", holds=not late.is_lost)
    notebook.claim(
        "a hint that is applied after the log was read loses the page", holds=wrong.is_lost
    )
    notebook.claim("a log that begins anew after sending loses a write", holds=after.is_lost)
    notebook.conclude(
        f"In order page 5 arrives as it was, {right.arrived}. With the hint after the log the"
        f" destination has {_in_words(wrong.arrived)} where the guest had {wrong.has}; with the log"
        f" begun anew after sending it has {_in_words(after.arrived)} instead of {after.has}."
    )


def _move(notebook: Notebook, what: str, hinting: Hinting, clearing: Clearing) -> Moved:
    notebook.step(what)
    moved = move(hinting, clearing)
    notebook.block("steps", "\n".join(moved.steps))
    notebook.see("page 5 at the source", moved.has)
    notebook.see("page 5 at the destination", _in_words(moved.arrived))
    return moved


def _in_words(content: int | None) -> str:
    return "nothing" if content is None else str(content)


EXPERIMENT: Final = Experiment(
    name="dirty-lost",
    question="Which order of steps would lose a page in a migration with hints?",
    answer="The log says that a page was written, and only then an older hint is applied: the page"
    " is taken out again and never sent.",
    explanation="A hint and the log speak of the same page at different times: free then, written"
    " since. Whichever is applied last wins, so a hint must never come after a log that was read"
    " later than the hint was given. The id of the round tells which hints are too late, and STOP"
    " before the log is read keeps new ones away. The log itself has the same trap: what is"
    " written between sending a page and beginning its log anew is forgotten. It is played with a"
    " script, by the passes that move our guests, because a kernel does not let itself be made"
    " to write at just that moment, and no sane device tells its hints in the wrong order.",
    sources=(
        "Virtio specification 1.3, section 5.5.6.5 (Free Page Hinting)",
        "QEMU migration/ram.c, migration_bitmap_sync_precopy, qemu_guest_free_page_hint",
        "QEMU hw/virtio/virtio-balloon.c, get_free_page_hints, free_page_lock",
        "QEMU commit 1a83e0b (one lock for the state of a round and for what is done with hints)",
    ),
    runs={Kernel.EMBEDDED: _on_script},
)
