"""Free page hints where the guest goes before its memory."""

from __future__ import annotations

import re
from contextlib import closing
from typing import Final

import numpy as np

from ballonet.guests.processes import PrivateDirectory
from ballonet.guests.qemu import HINTING, QemuGuest
from ballonet.lab.experiment import Experiment, Kernel
from ballonet.lab.moving_machines import KERNEL, begin_migration, finished_migration, machines
from ballonet.lab.notebook import Notebook
from ballonet.lab.qemu_migration import NOWHERE, SLOW, begin, set_postcopy, wait_for
from ballonet.lab.waiting import wait_until
from ballonet.migration.postcopy import FaultAnswer, MissingPages, ServedPages
from ballonet.runtime.monitor_socket import MonitorSocket

__all__ = ["EXPERIMENT", "kicks_of"]

_QEMU_BYTES: Final = 192 << 20
_OUR_BYTES: Final = 64 << 20
_KEPT_BYTES: Final = 16 << 20
#: Of the balloon's queues: inflate, deflate, statistics, hints.
_HINT_QUEUE: Final = 3
_TRACED: Final = "virtio_queue_notify"
_KICK: Final = re.compile(rf"{_TRACED} vdev \S+ n (\d+) ")
_FREE: Final = "stat-free-memory"
_POLL_S: Final = 1
_NOTE: Final = "free page hints do nothing with post-copy: all is sent"
_PAGES, _HINTED = 8, 5


def kicks_of(trace: str, queue: int) -> int:
    """How often a guest has told QEMU of something new in a queue, by QEMU's trace."""
    return sum(int(found) == queue for found in _KICK.findall(trace))


def _on_qemu(notebook: Notebook) -> None:
    _ask_for_a_page_left_out(notebook)
    before, after = _move_qemus(notebook)
    hinted = _move_ours(notebook)
    notebook.conclude(
        f"QEMU's guest kicked the hint queue in a migration without post-copy ({before} in all:"
        f" QEMU polls it while a round runs), and {after - before} times in one with it. Ours had"
        f" {hinted} pages hinted, and said: {_NOTE}."
    )


def _on_embedded(notebook: Notebook) -> None:
    notebook.runs_on("", KERNEL)
    _ask_for_a_page_left_out(notebook)
    hinted = _move_ours(notebook)
    notebook.conclude(f"With post-copy {hinted} pages were hinted, and it is said: {_NOTE}.")


def _ask_for_a_page_left_out(notebook: Notebook) -> None:
    """What each end makes of it, by the rules of our post-copy."""
    notebook.step(f"eight pages follow a guest, but {_HINTED}, which was hinted; it needs all")
    follows = np.ones(_PAGES, np.bool_)
    follows[_HINTED] = False
    source = ServedPages(follows)
    source.want(_HINTED)
    sent: list[int] = []
    while (runs := source.take(1)) is not None:
        sent += (first for first, _ in runs.pairs())
    notebook.see("sent", ", ".join(map(str, sent)))
    answer = MissingPages(follows).fault(_HINTED)
    notebook.see("a destination that knows the list finds there", answer.name.lower())
    notebook.claim(
        "the page is never sent, though it was asked for",
        holds=_HINTED not in sent and len(sent) == 7,
    )
    notebook.claim(
        "who has the list puts zeros in its place, and does not ask",
        holds=answer is FaultAnswer.ZERO,
    )


class _Qemu:
    """One of QEMU's guests, and its monitor."""

    def __init__(self, guest: QemuGuest, monitor: MonitorSocket) -> None:
        self._guest, self.monitor = guest, monitor

    def kicks(self) -> int:
        """Of the hint queue."""
        trace = (self._guest.qmp_path.parent / "errors").read_text(errors="replace")
        return kicks_of(trace, _HINT_QUEUE)

    def poll(self) -> None:
        """Have the guest's statistics asked for."""
        place = {"path": self._guest.balloon_path, "property": "guest-stats-polling-interval"}
        self.monitor.execute("qom-set", **place, value=_POLL_S)

    def free_bytes(self) -> int:
        """By the guest's statistics; -1: not known yet."""
        place = {"path": self._guest.balloon_path, "property": "guest-stats"}
        value = int(self.monitor.execute("qom-get", **place)["stats"].get(_FREE, -1))
        return value if value < 1 << 63 else -1


def _move_qemus(notebook: Notebook) -> tuple[int, int]:
    """Kicks of the hint queue: before anything is post-copy, and after a guest went by it."""
    traced = ("-trace", f"enable={_TRACED}")
    with (
        PrivateDirectory("ballonet-lab-") as directory,
        QemuGuest(_QEMU_BYTES, *HINTING, arguments=traced) as guest,
        QemuGuest(_QEMU_BYTES, *HINTING, incoming=directory / "in") as there,
        closing(MonitorSocket(guest.qmp_path)) as monitor,
        closing(MonitorSocket(there.qmp_path)) as monitor_there,
    ):
        notebook.runs_on(guest.console().split()[-1], "QEMU")
        here = _Qemu(guest, monitor)
        before = _hint_and_stay(notebook, here)
        set_postcopy(monitor, is_on=True)
        set_postcopy(monitor_there, is_on=True)
        notebook.step("post-copy is allowed at both ends, and the guest goes by it")
        begin(monitor, f"unix:{directory / 'in'}", SLOW)
        wait_for(monitor, "active")
        monitor.execute("migrate-start-postcopy")
        status = wait_for(monitor, "completed")["status"]
        after = here.kicks()
        arrives = bool(monitor_there.execute("query-status")["running"])
    notebook.see("kicks of the hint queue since", after - before)
    notebook.see("the migration", str(status))
    notebook.claim("without post-copy QEMU's guest hints", holds=before > 0)
    notebook.claim("with it, it is not even asked", holds=after == before)
    notebook.claim("QEMU refuses nothing: the guest goes, and runs there", holds=arrives)
    return before, after


def _hint_and_stay(notebook: Notebook, here: _Qemu) -> int:
    """Begin a migration, and cancel it when the guest has hinted; kicks of the hint queue."""
    here.poll()
    wait_until(lambda: here.free_bytes() > 0, "the guest sends no statistics")
    free = here.free_bytes()
    notebook.see("free in QEMU's guest", free, "bytes")
    notebook.step("a migration begins, and is cancelled when the guest holds what it has hinted")
    begin(here.monitor, NOWHERE, SLOW)
    wait_until(lambda: 0 < here.free_bytes() * 2 < free, "the guest hints nothing")
    notebook.see("free meanwhile", here.free_bytes(), "bytes")
    here.monitor.execute("migrate_cancel")
    wait_for(here.monitor, "cancelled")
    wait_until(lambda: here.free_bytes() * 10 > free * 9, "the guest does not free what it held")
    kicks = here.kicks()
    notebook.see("kicks of the hint queue", kicks)
    return kicks


def _move_ours(notebook: Notebook) -> int:
    """Pages that were hinted of a guest of ours that goes by post-copy."""
    with machines(2, _OUR_BYTES) as (_, (source, destination)):
        notebook.step("a guest of ours goes by post-copy, with hints asked for, too")
        source.ask("use_memory", percent=90)
        source.ask("hog", size=_KEPT_BYTES)
        capabilities = {"postcopy-ram": True, "x-ballonet-hints": True}
        begin_migration(source, destination.uri, capabilities, {"x-ballonet-timeout": 1})
        look = finished_migration(source)
        hinted = int(look["ram"]["x-ballonet-hinted"])
        note = str(look.get("x-ballonet-note", ""))
        looked = destination.ask("release_hogs")
    notebook.see("hinted", hinted, "pages")
    notebook.see("query-migrate says", note)
    notebook.claim("ours takes no hints then, and says so", holds=not hinted and note == _NOTE)
    notebook.claim("every page that the guest had kept is there", holds=looked == 1)
    return hinted


EXPERIMENT: Final = Experiment(
    name="postcopy-hints",
    question="Why can free page hints not be combined with post-copy?",
    answer="Because in post-copy a page that is not there is asked for, and the source believes of"
    " a hinted one that it need not send it: whoever touches it waits for ever.",
    explanation="Before the guest goes, a page that was left out is harmless: its contents do not"
    " matter, and the destination has zeros or anything there. In post-copy the absence of a page"
    " means that it is still to come. QEMU's destination asks for every page that it has not got,"
    " and its source, whose bitmap says that nothing is to be sent there, does not answer. So"
    " QEMU's balloon begins no round when post-copy is allowed, and says nothing. Our destination"
    " has a list of what is still to come and takes all else for zeros, which would do; ours keeps"
    " to QEMU's rule all the same, so that no page depends on it, and says so.",
    sources=(
        "QEMU hw/virtio/virtio-balloon.c, virtio_balloon_free_page_hint_notify",
        "QEMU commit fd51e54fa1 (do not start free page hinting on postcopy)",
        "QEMU migration/ram.c, ram_save_queue_pages, get_queued_page",
        "Virtio specification 1.3, section 5.5.6.5 (Free Page Hinting)",
    ),
    runs={Kernel.QEMU: _on_qemu, Kernel.EMBEDDED: _on_embedded},
)
