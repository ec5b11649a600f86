"""What becomes of the balloon when its guest moves."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from ballonet.guests.machine_process import MachineProcess
from ballonet.lab.experiment import Experiment, Kernel
from ballonet.lab.moving_machines import (
    KERNEL,
    begin_migration,
    finished_migration,
    machines,
    memory_of,
)
from ballonet.lab.notebook import Notebook
from ballonet.lab.waiting import wait_until
from ballonet.migration.compare import FilePages
from ballonet.runtime.monitor_socket import MonitorSocket
from ballonet.units import bytes_to_pages, format_bytes, pages_to_bytes

__all__ = ["EXPERIMENT"]

_MEMORY_BYTES: Final = 128 << 20
_BALLOON_BYTES: Final = 48 << 20
_KEPT_BYTES: Final = 16 << 20


def _on_embedded(notebook: Notebook) -> None:
    notebook.runs_on("", KERNEL)
    with (
        machines(2, _MEMORY_BYTES) as (_, (source, destination)),
        memory_of(source) as here,
        memory_of(destination) as there,
    ):
        _fill_balloon(notebook, source, here)
        notebook.step("it is paused, and moves without hints: what is free is sent, too")
        source.execute("stop")
        before = ~here.held()
        begin_migration(source, destination.uri, {"x-ballonet-hints": False}, {})
        look = finished_migration(source)
        after = ~there.held()
        _compare_holes(notebook, before, after, sent_pages=int(look["ram"]["normal"]))
        notebook.step("it goes on at the destination")
        destination.execute("cont")
        actual = _see_balloon(notebook, destination)
        notebook.step("the balloon is emptied there, and the guest uses all of its memory")
        free = destination.ask("meminfo")["MemFree"]
        destination.set_balloon(0)
        gained = destination.ask("meminfo")["MemFree"] - free
        notebook.see("MemFree grows by", gained, "bytes")
        destination.ask("use_memory", percent=100)
        looked = destination.ask("release_hogs")
    notebook.claim(
        "driver and device there still know the balloon's size",
        holds=actual == (_BALLOON_BYTES, _MEMORY_BYTES - _BALLOON_BYTES),
    )
    notebook.claim("the guest gets back what was in it", holds=gained == _BALLOON_BYTES)
    notebook.claim("what the guest had kept is as it was, every page", holds=looked == 1)
    notebook.conclude(
        f"The balloon's {format_bytes(_BALLOON_BYTES)} were not sent and are holes at the"
        f" destination, where driver and device went on with it; emptied there, it gave"
        f" {format_bytes(gained)} back to the guest."
    )


def _fill_balloon(notebook: Notebook, source: MachineProcess, here: FilePages) -> None:
    notebook.step("a guest uses all of its memory once, and keeps a part of it")
    source.ask("use_memory", percent=100)
    source.ask("hog", size=_KEPT_BYTES)
    notebook.step(f"its balloon becomes {format_bytes(_BALLOON_BYTES)} big")
    source.set_balloon(_BALLOON_BYTES)
    # The device answers first, and drops the pages of many messages together, soon after.
    wait_until(lambda: _holes(here) >= bytes_to_pages(_BALLOON_BYTES), "the host does not drop it")


def _holes(memory: FilePages) -> int:
    return int(np.count_nonzero(~memory.held()))


def _compare_holes(
    notebook: Notebook, before: NDArray[np.bool_], after: NDArray[np.bool_], *, sent_pages: int
) -> None:
    balloon_pages = bytes_to_pages(_BALLOON_BYTES)
    holes, filled = int(np.count_nonzero(before)), int(np.count_nonzero(before & ~after))
    notebook.see("holes in its memory at the source", holes, "pages")
    notebook.see("holes at the destination", int(np.count_nonzero(after)), "pages")
    notebook.see("holes at the source, and none there", filled, "pages")
    notebook.see("pages sent", sent_pages, "pages")
    notebook.claim("the balloon is holes at the source", holds=holes >= balloon_pages)
    notebook.claim("each of them is a hole at the destination, too", holds=not filled)
    notebook.claim("none of them was sent", holds=sent_pages <= before.size - holes)


def _see_balloon(notebook: Notebook, machine: MachineProcess) -> tuple[int, int]:
    """Bytes that the driver says are in it, and what the device's `query-balloon` leaves."""
    in_balloon = pages_to_bytes(int(machine.ask("driver")["actual_pages"]))
    device = MonitorSocket(machine.device_qmp)
    try:
        left = int(device.execute("query-balloon")["actual"])
    finally:
        device.close()
    notebook.see("in the balloon, by its driver", in_balloon, "bytes")
    notebook.see("query-balloon", left, "bytes")
    return in_balloon, left


EXPERIMENT: Final = Experiment(
    name="balloon-moves",
    question="What becomes of the balloon itself when a guest moves?",
    answer="It moves along without its pages: the driver's list and the device's figures are sent,"
    " the memory is not, and is a hole at the destination.",
    explanation="The host has dropped the balloon's pages, so there is nothing to send: a hole in"
    " the memory's file is told as a hole. Which pages are in the balloon the driver knows, in the"
    " guest's own memory; what it has reported of that, `actual`, the device sends with its state."
    " The new device need not know the pages: a deflate message names them, and the guest finds"
    " zeros in what it takes back, or whatever was there, and counts on nothing. QEMU sends"
    " num_pages and actual in the same way; it skips the pages because they read as zeros. It is"
    " our own kernel, as a guest in User-Mode Linux cannot be moved.",
    sources=(
        "Virtio specification 1.3, section 5.5.6 (Device Operation)",
        "QEMU hw/virtio/virtio-balloon.c, vmstate_virtio_balloon_device",
        "QEMU migration/ram.c, save_zero_page",
    ),
    runs={Kernel.EMBEDDED: _on_embedded},
)
