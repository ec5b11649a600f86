"""What init_on_free=1 in the guest changes for the host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ballonet.control.status import Status
from ballonet.device.balloon import BalloonSettings
from ballonet.guests.ballooned import BalloonedEmbeddedGuest, BalloonedGuest
from ballonet.guests.embedded import EmbeddedGuestSettings
from ballonet.kernel.kernel import KernelSettings
from ballonet.lab.driver_guest import driver_guest
from ballonet.lab.experiment import Experiment, Kernel
from ballonet.lab.memory_marks import MARK, count_marked_pages
from ballonet.lab.notebook import Notebook
from ballonet.lab.waiting import becomes, wait_until
from ballonet.units import format_bytes, pages_to_bytes
from ballonet.virtio.features import RING_FEATURES, Feature

__all__ = ["EXPERIMENT"]

_OFFERED: Final = (
    Feature.MUST_TELL_HOST | Feature.STATS_VQ | Feature.PAGE_POISON | Feature.PAGE_REPORTING
)
#: Linux reports blocks of 4 MiB here, and only while 32 of them and more are free.
_MEMORY_BYTES: Final = 512 << 20
_FILE_BYTES: Final = 128 << 20
_PART_BYTES: Final = 2 << 20
_EMBEDDED_BYTES: Final = 256 << 20
_EMBEDDED_REPORT_BYTES: Final = 32 << 20
_USED_PERCENT: Final = 50


@dataclass(frozen=True, slots=True)
class _Seen:
    poison_val: int | None
    written_pages: int  #: with the mark, while the file is there
    dropped_pages: int  #: with it, when the host has dropped what was reported
    freed_pages: int  #: with it, when the file was removed and nothing was dropped


def _on_uml(notebook: Notebook) -> None:
    without, with_it = (_run(notebook, *options) for options in ((), ("init_on_free=1",)))
    notebook.claim(
        "without it the driver writes no poison_val; with it it writes 0",
        holds=without.poison_val is None and with_it.poison_val == 0,
    )
    notebook.claim(
        "without it most freed pages still hold what was in them; with it none does",
        holds=without.freed_pages * 2 > without.written_pages
        and with_it.freed_pages * 100 < with_it.written_pages,
    )
    notebook.claim(
        "in both cases the host drops what is reported, which is most of it, marks and all",
        holds=all(one.dropped_pages * 4 < one.written_pages for one in (without, with_it)),
    )
    freed = [format_bytes(pages_to_bytes(one.freed_pages)) for one in (without, with_it)]
    notebook.conclude(
        f"Of a removed file {freed[0]} could still be read in the guest's free memory without"
        f" init_on_free, and {freed[1]} with it; the driver then says poison_val"
        f" {with_it.poison_val}, and the host may drop what is reported all the same."
    )


def _run(notebook: Notebook, *options: str) -> _Seen:
    with driver_guest(notebook, _OFFERED, *options, memory_bytes=_MEMORY_BYTES) as machine:
        option = options[0] if options else "no such option"
        notebook.step(f"a guest with {option} writes a file and removes it, and reports the memory")
        device, memory = machine.device, machine.guest.memory_file()
        _write(machine)
        written_pages, full_bytes = count_marked_pages(memory), device.status().held_bytes
        machine.guest.check("rm /tmp/file")
        least_bytes = full_bytes - _FILE_BYTES * 3 // 4
        wait_until(lambda: device.status().held_bytes < least_bytes, "the host gets no memory back")
        becomes(lambda: count_marked_pages(memory) * 4 < written_pages)
        dropped_pages = count_marked_pages(memory)
        notebook.step("it does so once more, and the host drops nothing of what is reported")
        device.set_report_rate(0).result()
        _write(machine)
        machine.guest.check("rm /tmp/file")
        freed_pages = count_marked_pages(memory)
        poison_val = device.status().poison_val
        seen = _Seen(poison_val, written_pages, dropped_pages, freed_pages)
    notebook.see("poison_val", "not written" if poison_val is None else poison_val)
    notebook.see("pages with the file's mark", seen.written_pages, "pages")
    notebook.see("removed, and dropped by the host", seen.dropped_pages, "pages")
    notebook.see("removed alone", seen.freed_pages, "pages")
    return seen


def _write(machine: BalloonedGuest) -> None:
    text, part = MARK.decode().rstrip("\n"), "/run/part"
    times = _FILE_BYTES // _PART_BYTES
    machine.guest.check(
        f'yes "{text}" | head -c {_PART_BYTES} > {part}; cat{f" {part}" * times} > /tmp/file;'
        f" rm {part}"
    )


def _on_embedded(notebook: Notebook) -> None:
    rows = {poison: _report(notebook, poison) for poison in (None, 0, 0xAA)}
    notebook.table(
        "what the host does with reports, in bytes",
        ("free pages are filled with", "poison_val", "reported", "kept"),
        [
            (
                _filled(poison),
                "not written" if one.poison_val is None else f"{one.poison_val:#x}",
                one.counters.reported_bytes,
                one.counters.skipped_report_bytes,
            )
            for poison, one in rows.items()
        ],
    )
    nothing, zeros, others = (one.counters for one in rows.values())
    notebook.claim(
        "what is reported is dropped if the guest expects zeros, or nothing",
        holds=nothing.skipped_report_bytes == zeros.skipped_report_bytes == 0
        and min(nothing.discarded_bytes, zeros.discarded_bytes) > 0,
    )
    notebook.claim(
        "with any other value nothing of it is dropped",
        holds=others.skipped_report_bytes == others.reported_bytes and others.discarded_bytes == 0,
    )
    notebook.conclude(
        f"Of {format_bytes(zeros.reported_bytes)} reported by a guest that zeroes what it frees all"
        f" was dropped; of {format_bytes(others.reported_bytes)} by one that fills it with 0xaa"
        " nothing."
    )


def _report(notebook: Notebook, poison: int | None) -> Status:
    """The device when our kernel has reported pages that it had filled so."""
    guest = EmbeddedGuestSettings(_EMBEDDED_BYTES, kernel=KernelSettings(poison=poison))
    with BalloonedEmbeddedGuest(guest, BalloonSettings(RING_FEATURES | _OFFERED)) as machine:
        notebook.runs_on("", "our embedded kernel")
        filled = _filled(poison)
        notebook.step(f"a guest that fills freed pages with {filled} uses memory, and frees it")
        machine.guest.use_memory(_USED_PERCENT)
        device = machine.device
        wait_until(
            lambda: device.status().counters.reported_bytes >= _EMBEDDED_REPORT_BYTES,
            "the guest reports nothing",
        )
        return device.status()


def _filled(poison: int | None) -> str:
    return "nothing" if poison is None else f"{poison:#04x}"


EXPERIMENT: Final = Experiment(
    name="init-on-free",
    question="What does init_on_free=1 in the guest change?",
    answer="The guest's free pages hold zeros and its driver says so by poison_val 0, so that the"
    " host may drop them, because a dropped page reads as zeros.",
    explanation="With init_on_free the kernel does not clear a page when it is allocated: it relies"
    " on the page having been cleared when it was freed. So want_init_on_free counts as poisoning"
    " in the driver, with value 0, and the host has to give zeros back. With page_poison=1 the"
    " value is 0xaaaaaaaa, and a host that cannot write it must leave reported pages alone: that"
    " case is shown by our own kernel (--kernel embedded), because none of the real ones at hand is"
    " built with PAGE_POISONING. For the guest's owner it means, too, that what was freed cannot be"
    " found in its memory any more.",
    sources=(
        "Linux mm/page_alloc.c, free_pages_prepare, post_alloc_hook",
        "Linux include/linux/mm.h, want_init_on_free",
        "Linux drivers/virtio/virtio_balloon.c, virtballoon_validate, virtballoon_probe",
        "Virtio specification 1.3, sections 5.5.6.6 and 5.5.6.7",
        "QEMU hw/virtio/virtio-balloon.c, virtio_balloon_handle_report",
    ),
    runs={Kernel.UML: _on_uml, Kernel.EMBEDDED: _on_embedded},
)
