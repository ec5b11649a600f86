"""Whether a guest swaps for its balloon."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ballonet.guests.ballooned import BalloonedGuest
from ballonet.guests.processes import PrivateDirectory
from ballonet.lab.driver_guest import driver_guest, fill
from ballonet.lab.experiment import Experiment, Kernel
from ballonet.lab.notebook import Notebook
from ballonet.lab.waiting import wait_until
from ballonet.units import bytes_to_pages, format_bytes, pages_to_bytes
from ballonet.virtio.features import Feature

__all__ = ["EXPERIMENT"]

_OFFERED: Final = Feature.MUST_TELL_HOST | Feature.STATS_VQ
_MEMORY_BYTES: Final = 256 << 20
_SWAP_BYTES: Final = 256 << 20
_FILE_MIB: Final = 128
#: Far less than what is free beside the file, and far more.
_SMALL_PAGES: Final = bytes_to_pages(32 << 20)
_LARGE_PAGES: Final = bytes_to_pages(160 << 20)
_STATS_S: Final = 60.0
_CHECKSUM: Final = "md5sum < /tmp/file"


def _on_uml(notebook: Notebook) -> None:
    free, used, told = _with_swap(notebook)
    actual_pages, swapped = _without_swap(notebook)
    notebook.claim("a balloon of free memory makes nobody swap", holds=free == 0)
    notebook.claim("a balloon of used memory does: the kernel swaps out", holds=used > 0)
    notebook.claim("the host hears of it by the swap-out statistic", holds=told >= used)
    notebook.claim(
        "without swap space the balloon stays below its target, and nothing is swapped",
        holds=actual_pages < _LARGE_PAGES and swapped == 0,
    )
    notebook.conclude(
        f"For a balloon of {format_bytes(pages_to_bytes(_LARGE_PAGES))} beside a file of"
        f" {_FILE_MIB} MiB in a guest of {format_bytes(_MEMORY_BYTES)} the kernel swapped"
        f" {format_bytes(pages_to_bytes(used))} out; without swap space the balloon came to"
        f" {format_bytes(pages_to_bytes(actual_pages))}."
    )


def _with_swap(notebook: Notebook) -> tuple[int, int, int]:
    """Pages swapped out for a small balloon and for a large one, and those the host heard of."""
    with PrivateDirectory("ballonet-swap-") as directory:
        disk = _disk(directory)
        with driver_guest(
            notebook, _OFFERED, f"ubd0={disk}", memory_bytes=_MEMORY_BYTES
        ) as machine:
            guest = machine.guest
            notebook.step(f"a guest with swap space keeps a file of {_FILE_MIB} MiB in memory")
            guest.check("mkswap /dev/ubda && swapon /dev/ubda")
            checksum = _keep_file(machine)
            before = guest.vmstat()["pswpout"]
            notebook.step(f"its balloon becomes {_SMALL_PAGES:,} pages big: there is free memory")
            fill(machine, _SMALL_PAGES)
            free = guest.vmstat()["pswpout"] - before
            notebook.step(f"its balloon becomes {_LARGE_PAGES:,} pages big: there is not")
            fill(machine, _LARGE_PAGES)
            used = guest.vmstat()["pswpout"] - before - free
            told = bytes_to_pages(machine.device.stats.read(_STATS_S).sample.value("swap_out"))
            notebook.see("swapped out for free memory (pswpout)", free, "pages")
            notebook.see("swapped out for used memory (pswpout)", used, "pages")
            notebook.see("what the statistics say of it", told, "pages")
            same = guest.check(_CHECKSUM) == checksum
            notebook.claim("the file is as it was, whatever was swapped", holds=same)
    return free, used, told


def _without_swap(notebook: Notebook) -> tuple[int, int]:
    """Pages that the large balloon comes to, and pages swapped out."""
    with driver_guest(notebook, _OFFERED, memory_bytes=_MEMORY_BYTES) as machine:
        guest, device = machine.guest, machine.device
        notebook.step("a guest without swap space does the same")
        _keep_file(machine)
        device.set_target(_LARGE_PAGES)
        # It has hardly any memory left now, so nothing is asked of it before it has some again.
        wait_until(lambda: "Out of puff!" in guest.kernel_log(), "the guest has memory left")
        actual_pages = device.status().actual_pages
        fill(machine, 0)
        swapped = guest.vmstat()["pswpout"]
    notebook.see("in the balloon when no more was to be found", actual_pages, "pages")
    notebook.see("swapped out without swap space", swapped, "pages")
    return actual_pages, swapped


def _disk(directory: Path) -> Path:
    """A file that is the guest's disk."""
    disk = directory / "swap"
    with disk.open("wb") as file:
        file.truncate(_SWAP_BYTES)
    return disk


def _keep_file(machine: BalloonedGuest) -> str:
    """A file in the guest's memory, which only swapping could free; returns its checksum."""
    machine.guest.check(f"dd if=/dev/urandom of=/tmp/file bs=1M count={_FILE_MIB}")
    return machine.guest.check(_CHECKSUM)


EXPERIMENT: Final = Experiment(
    name="swap",
    question="Does a balloon make the guest swap?",
    answer="Yes, if the guest has swap space and the balloon is to become bigger than what is free"
    " and cached: the driver's allocations reclaim memory as any others do.",
    explanation="The driver allocates with GFP_HIGHUSER_MOVABLE and __GFP_NORETRY: kswapd is woken,"
    " and each allocation may reclaim once, which drops caches and swaps out. It gives up sooner"
    " than others do, and makes nobody be killed. So a host that asks for too much gets it at the"
    " price of the guest's disk; the statistics swap-out and major faults tell the host.",
    sources=(
        "Linux mm/balloon_compaction.c, balloon_page_alloc",
        "Linux drivers/virtio/virtio_balloon.c, fill_balloon",
        "Linux mm/vmscan.c, shrink_folio_list (pageout)",
    ),
    runs={Kernel.UML: _on_uml},
)
