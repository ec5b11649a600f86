"""The two words that end a hint round, and what the guest does at each."""

from __future__ import annotations

from typing import Final

from ballonet.device.balloon import BalloonSettings
from ballonet.guests.ballooned import BalloonedGuest
from ballonet.guests.linux import LinuxGuestSettings
from ballonet.lab.experiment import Experiment, Kernel
from ballonet.lab.hint_watch import HintWatch
from ballonet.lab.notebook import Notebook
from ballonet.lab.waiting import becomes
from ballonet.units import format_bytes, pages_to_bytes
from ballonet.virtio.features import RING_FEATURES, Feature
from ballonet.virtio.hint_ids import CMD_ID_DONE, CMD_ID_STOP

__all__ = ["EXPERIMENT"]

_MEMORY_BYTES: Final = 256 << 20
_FEATURES: Final = Feature.MUST_TELL_HOST | Feature.FREE_PAGE_HINT
#: Each look is a command that the guest runs after it has read STOP, and frees its pages before.
_LOOKS: Final = 3
_BACK_S: Final = 60.0


def _on_uml(notebook: Notebook) -> None:
    settings = BalloonSettings(RING_FEATURES | _FEATURES)
    with (
        BalloonedGuest(LinuxGuestSettings(_MEMORY_BYTES), settings) as machine,
        HintWatch(machine.device) as watch,
    ):
        notebook.runs_on(machine.guest.release, "User-Mode Linux")

        def free_bytes() -> int:
            return machine.guest.meminfo()["MemFree"]

        before = free_bytes()
        notebook.see("MemFree", before, "bytes")
        first = _ask(notebook, watch, "a round begins, and the guest names what is free")
        held = sum(block.pages for block in watch.blocks(first))
        notebook.step("STOP is shown")
        watch.stop()
        stopped = max(free_bytes() for _ in range(_LOOKS))
        notebook.see("MemFree after STOP, at the most", stopped, "bytes")
        second = _ask(notebook, watch, "the next id is shown")
        again = sum(block.pages for block in watch.blocks(second))
        notebook.step("DONE is shown")
        watch.finish()
        is_back = becomes(lambda: free_bytes() * 10 >= before * 9, _BACK_S)
        after = free_bytes()
        notebook.see("MemFree after DONE", after, "bytes")
        words = watch.ids_read
    notebook.block(
        "what the driver has read of free_page_hint_cmd_id",
        " ".join(f"{word:#x}" for word in words),
    )
    _claim(notebook, words, first=first, second=second)
    _claim_memory(notebook, before=before, stopped=stopped, held=held, again=again)
    notebook.claim("after DONE it is free again", holds=is_back)
    notebook.conclude(
        f"{format_bytes(pages_to_bytes(held))} were hinted. After STOP {format_bytes(stopped)} of"
        f" {format_bytes(before)} were free, and the round of the next id named"
        f" {format_bytes(pages_to_bytes(again))} more; after DONE {format_bytes(after)} were free."
    )


def _claim_memory(notebook: Notebook, *, before: int, stopped: int, held: int, again: int) -> None:
    notebook.claim("a round takes most of the free memory away", holds=_is_most(held, before))
    notebook.claim(
        "after STOP the guest keeps it: less than half is free", holds=stopped * 2 < before
    )
    notebook.claim(
        "the next round goes on: it has few pages to name that are not held",
        holds=again * 4 < held,
    )


def _is_most(held_pages: int, free_bytes: int) -> bool:
    """So many pages are three quarters of what was free, or more."""
    return pages_to_bytes(held_pages) * 4 >= free_bytes * 3


def _ask(notebook: Notebook, watch: HintWatch, step: str) -> int:
    notebook.step(step)
    cmd_id = watch.ask()
    pages = sum(block.pages for block in watch.blocks(cmd_id))
    notebook.see(f"hinted in round {cmd_id:#x}", pages, "pages")
    return cmd_id


def _claim(notebook: Notebook, words: tuple[int, ...], *, first: int, second: int) -> None:
    """The driver may read a word more than once."""
    once = [word for at, word in enumerate(words) if not at or words[at - 1] != word]
    notebook.claim(
        "the driver has read: an id, STOP, the next id, DONE",
        holds=once[-4:] == [first, CMD_ID_STOP, second, CMD_ID_DONE] and second == first + 1,
    )


EXPERIMENT: Final = Experiment(
    name="stop-and-done",
    question="Why is there DONE beside STOP?",
    answer="Because a migration has many passes: STOP ends the hints of one pass and the guest"
    " keeps what it has named, DONE ends all of them and the guest frees it.",
    explanation="A hint holds only until the log of written pages is read again, so each pass has"
    " a round of its own, and between two of them the guest must be silent. If it freed its pages"
    " then, it would write to memory and have to take and name all of them again in the next"
    " round. With one word only the guest could not know which of the two is meant. A new id goes"
    " on where the last round ended: what is held already is not named again, because it is held.",
    sources=(
        "Virtio specification 1.3, section 5.5.6.5 (Free Page Hinting)",
        "Linux drivers/virtio/virtio_balloon.c, report_free_page_func",
        "QEMU hw/virtio/virtio-balloon.c, virtio_balloon_free_page_hint_notify",
        "QEMU hw/virtio/virtio-balloon.c, virtio_balloon_get_config",
        "Linux commit 86a559787e6f (VIRTIO_BALLOON_F_FREE_PAGE_HINT)",
    ),
    runs={Kernel.UML: _on_uml},
)
