"""MemTotal with and without VIRTIO_BALLOON_F_DEFLATE_ON_OOM."""

from __future__ import annotations

from typing import Final

from ballonet.device.balloon import BalloonSettings
from ballonet.errors import GuestError
from ballonet.guests.ballooned import BalloonedGuest
from ballonet.guests.linux import LinuxGuestSettings
from ballonet.lab.experiment import Experiment, Kernel
from ballonet.lab.notebook import Notebook
from ballonet.units import bytes_to_pages, format_bytes
from ballonet.virtio.features import RING_FEATURES, Feature

__all__ = ["EXPERIMENT"]

_MEMORY_BYTES: Final = 256 << 20
_BALLOON_BYTES: Final = 64 << 20
_STALLED_S: Final = 60.0


def _on_uml(notebook: Notebook) -> None:
    fallen = {}
    for feature in (Feature.MUST_TELL_HOST, Feature.MUST_TELL_HOST | Feature.DEFLATE_ON_OOM):
        has_it = Feature.DEFLATE_ON_OOM in feature
        settings = BalloonSettings(RING_FEATURES | feature)
        with BalloonedGuest(LinuxGuestSettings(_MEMORY_BYTES), settings) as machine:
            notebook.runs_on(machine.guest.release, "User-Mode Linux")
            notebook.step(f"a guest {'with' if has_it else 'without'} DEFLATE_ON_OOM starts")
            before = machine.guest.meminfo()["MemTotal"]
            notebook.step(f"its balloon becomes {format_bytes(_BALLOON_BYTES)} big")
            pages = bytes_to_pages(_BALLOON_BYTES)
            if not machine.resize(pages, stalled_after_s=_STALLED_S).reached:
                raise GuestError("the balloon does not reach its target")
            after = machine.guest.meminfo()["MemTotal"]
        notebook.see("MemTotal before", before, "bytes")
        notebook.see("MemTotal with the balloon", after, "bytes")
        fallen[has_it] = before - after
    notebook.claim(
        "without the feature MemTotal falls by what is in the balloon",
        holds=fallen[False] == _BALLOON_BYTES,
    )
    notebook.claim("with it MemTotal stays as it was", holds=fallen[True] == 0)
    notebook.conclude(
        f"MemTotal falls by {format_bytes(fallen[False])} without DEFLATE_ON_OOM, and by"
        f" {format_bytes(fallen[True])} with it."
    )


EXPERIMENT: Final = Experiment(
    name="mem-total",
    question="What does MemTotal show with and without DEFLATE_ON_OOM, and who wanted that?",
    answer="Without DEFLATE_ON_OOM the balloon's pages are missing from MemTotal; with it they"
    " still count, because the guest gets them back when it runs out of memory.",
    explanation="The driver takes each page out of the kernel's count of managed pages"
    " (adjust_managed_page_count), unless DEFLATE_ON_OOM was negotiated. Hosting providers wanted"
    " it: their customers have paid for an amount of memory, do get it when they need it, and"
    " should not see a smaller machine meanwhile.",
    sources=(
        "Virtio specification 1.3, section 5.5.6.3 (VIRTIO_BALLOON_F_DEFLATE_ON_OOM)",
        "Linux drivers/virtio/virtio_balloon.c, fill_balloon, release_pages_balloon",
        "Linux commit 997e120843e8 (do not change memory amount visible via /proc/meminfo)",
    ),
    runs={Kernel.UML: _on_uml},
)
