"""What it costs to use memory that was in the balloon."""

from __future__ import annotations

import time
from typing import Final, NamedTuple

from ballonet.device.balloon import BalloonSettings
from ballonet.errors import GuestError
from ballonet.guests.ballooned import BalloonedGuest
from ballonet.guests.linux import LinuxGuestSettings
from ballonet.lab.experiment import Experiment, Kernel
from ballonet.lab.notebook import Notebook
from ballonet.lab.page_faults import minor_faults
from ballonet.units import BALLOON_PAGE_BYTES, bytes_to_pages, format_bytes
from ballonet.virtio.features import RING_FEATURES, Feature

__all__ = ["EXPERIMENT"]

_MEMORY_BYTES: Final = 192 << 20
_BALLOON_BYTES: Final = 96 << 20
#: Of what is available, so that hardly a page of the balloon is left out.
_USED_PERCENT: Final = 95
_STALLED_S: Final = 120.0


class Use(NamedTuple):
    """The guest has written to nearly all its memory once."""

    seconds: float
    faults: int  #: minor ones of the guest's process on the host
    grown_bytes: int  #: by so much more memory stands behind the guest

    @property
    def pages(self) -> int:
        """How many came back."""
        return self.grown_bytes // BALLOON_PAGE_BYTES


def _on_uml(notebook: Notebook) -> None:
    settings = BalloonSettings(RING_FEATURES | Feature.MUST_TELL_HOST)
    with BalloonedGuest(LinuxGuestSettings(_MEMORY_BYTES), settings) as machine:
        notebook.runs_on(machine.guest.release, "User-Mode Linux")
        notebook.step("the guest writes to nearly all its memory, for the first time")
        first = _use(machine)
        _use(machine)  # what the first time has left out
        notebook.step("it does so again, and has given nothing meanwhile")
        warm = _use(machine)
        before = machine.guest.host_memory_bytes()
        notebook.step(f"its balloon becomes {format_bytes(_BALLOON_BYTES)}, and empty again")
        _resize(machine, bytes_to_pages(_BALLOON_BYTES))
        _resize(machine, 0)
        given_bytes = before - machine.guest.host_memory_bytes()
        notebook.step("it writes to nearly all its memory")
        again = _use(machine)
    uses = {"for the first time": first, "used before": warm, "taken back": again}
    notebook.see("the host had got and still has", given_bytes, "bytes")
    notebook.table(
        "memory, written by the guest",
        ("its memory", "came from the host", "minor faults", "ms"),
        [
            (name, format_bytes(one.grown_bytes), one.faults, round(one.seconds * 1000))
            for name, one in uses.items()
        ],
    )
    _claim(notebook, warm, again, bytes_to_pages(given_bytes))
    more_s = max(0.0, again.seconds - warm.seconds)
    notebook.conclude(
        f"{again.pages:,} pages came back with {again.faults:,} minor faults of the guest's process"
        f" ({warm.faults:,} with memory never given), at"
        f" {more_s / max(1, again.pages) * 1e6:.1f} µs more for each page."
    )


def _claim(notebook: Notebook, warm: Use, again: Use, given_pages: int) -> None:
    balloon_pages = bytes_to_pages(_BALLOON_BYTES)
    notebook.claim(
        "an empty balloon alone leaves the memory with the host",
        holds=given_pages > balloon_pages * 3 // 4,
    )
    notebook.claim(
        "the guest gets it by using it, without a word to the device",
        holds=again.pages > balloon_pages * 3 // 4,
    )
    notebook.claim(
        "each page that comes back is a minor fault of the guest's process",
        holds=again.faults - warm.faults >= again.pages * 7 // 8,
    )
    notebook.claim(
        "memory that was used before and never given costs hardly any",
        holds=warm.faults < balloon_pages // 4,
    )


def _use(machine: BalloonedGuest) -> Use:
    guest = machine.guest
    faults, held = minor_faults(guest.pid), guest.host_memory_bytes()
    begun_s = time.monotonic()
    guest.use_memory(_USED_PERCENT)
    seconds = time.monotonic() - begun_s
    return Use(seconds, minor_faults(guest.pid) - faults, guest.host_memory_bytes() - held)


def _resize(machine: BalloonedGuest, pages: int) -> None:
    result = machine.resize(pages, stalled_after_s=_STALLED_S)
    if not result.reached or result.waiting_bytes:
        raise GuestError(f"there is no balloon of {pages:,} pages")


EXPERIMENT: Final = Experiment(
    name="guest-takes-again",
    question="After deflate, how does the guest get its memory, and what does it cost?",
    answer="It just uses the page: the first touch is a page fault on the host, which puts an empty"
    " page there, and only later touches are as fast as before.",
    explanation="Deflate tells the device that pages are the guest's again; neither brings memory."
    " At the first touch the host's kernel finds nothing behind the address, takes a page, fills it"
    " with zeros and maps it: a minor fault of the virtual machine's process, some microseconds"
    " with User-Mode Linux, and with KVM an exit of the processor besides. It is the same price as"
    " for memory that was never used since the guest was started. Where the host gives huge pages"
    " one fault brings 2 MiB. Should the host have no page left, it is here that the guest waits"
    " or is killed, long after the balloon said that all is well.",
    sources=(
        "Virtio specification 1.3, section 5.5.6 (Device operation)",
        "Linux drivers/virtio/virtio_balloon.c, leak_balloon",
        "Linux mm/memory.c, do_shared_fault, do_anonymous_page; mm/shmem.c, shmem_fault",
        "QEMU hw/virtio/virtio-balloon.c, balloon_deflate_page",
    ),
    runs={Kernel.UML: _on_uml},
)
