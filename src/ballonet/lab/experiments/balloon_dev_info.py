"""What `balloon_dev_info` and `virtio_balloon` are each for, seen by what moves and what counts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final

from ballonet.guests.ballooned import BalloonedGuest
from ballonet.guests.qemu_balloon import QemuBalloonGuest
from ballonet.lab.driver_guest import driver_guest, fill
from ballonet.lab.experiment import Experiment, Kernel
from ballonet.lab.kernel_pages import pages_in_balloon
from ballonet.lab.notebook import Notebook
from ballonet.lab.scattered_balloon import BALLOON_PAGES, MEMORY_BYTES, compact, scatter
from ballonet.lab.waiting import wait_until
from ballonet.units import bytes_to_pages, format_bytes, pages_to_bytes
from ballonet.virtio.features import Feature

__all__ = ["EXPERIMENT"]

_OFFERED: Final = Feature.MUST_TELL_HOST | Feature.STATS_VQ | Feature.FREE_PAGE_HINT
_LEASE_S: Final = 120.0
_QEMU_BYTES: Final = 256 << 20


def _on_uml(notebook: Notebook) -> None:
    with driver_guest(notebook, _OFFERED, memory_bytes=MEMORY_BYTES) as machine:
        guest, device = machine.guest, machine.device
        notebook.step(f"a balloon of {BALLOON_PAGES:,} pages lies scattered in the guest")
        scatter(guest, partial(fill, machine))
        rows = [("before compaction", _listed(guest.vmstat()), device.status().actual_pages)]
        notebook.step("the guest's memory is compacted")
        moved = compact(guest).moved
        rows.append(("after it", _listed(guest.vmstat()), device.status().actual_pages))
        notebook.step("the guest's free pages are hinted, and held")
        hinted, listed = _hint(machine)
        rows.append(("while pages are hinted", listed, device.status().actual_pages))
    notebook.table(
        "pages in the balloon",
        ("", "by mm's counters (inflate - deflate)", "by the driver (actual)"),
        rows,
    )
    notebook.see("moved by compaction (balloon_migrate)", moved, "pages")
    notebook.see("hinted", hinted, "pages")
    notebook.claim(
        "memory management and driver count the same pages, always",
        holds=all(listed == counted == BALLOON_PAGES for _, listed, counted in rows),
    )
    notebook.claim("memory management moves them without the driver's count", holds=moved > 0)
    notebook.claim("hinted pages are not among them", holds=hinted > 0)
    notebook.conclude(
        f"Compaction moved {moved:,} pages and {format_bytes(pages_to_bytes(hinted))} were hinted;"
        f" memory management's list and the driver's count stayed at {BALLOON_PAGES:,} pages."
    )


def _listed(vmstat: Mapping[str, int]) -> int:
    """Pages on the list of balloon_dev_info, as balloon_page_enqueue and _dequeue count them."""
    return vmstat["balloon_inflate"] - vmstat["balloon_deflate"]


def _hint(machine: BalloonedGuest) -> tuple[int, int]:
    """Pages hinted in a round, and those on the list while the driver holds them."""
    device = machine.device
    device.hints.begin(_LEASE_S)
    try:
        wait_until(lambda: device.status().counters.hinted_pages > 0, "no page is hinted")
        wait_until(lambda: device.status().hint_state == "STOP", "the round does not end")
        return device.status().counters.hinted_pages, _listed(machine.guest.vmstat())
    finally:
        device.hints.finish()


def _on_qemu(notebook: Notebook) -> None:
    with QemuBalloonGuest(_QEMU_BYTES) as guest:
        notebook.runs_on(guest.release, "QEMU")
        shell = guest.shell
        notebook.step(f"a balloon of {BALLOON_PAGES:,} pages lies scattered in the guest")
        scatter(shell, partial(_fill_qemus, guest))
        listed, counted = set(pages_in_balloon(shell.check).tolist()), _counted(guest)
        notebook.step("the guest's memory is compacted")
        moved = compact(shell).moved
        listed_then, counted_then = set(pages_in_balloon(shell.check).tolist()), _counted(guest)
    notebook.table(
        "pages in the balloon",
        ("", "marked by mm (kpageflags)", "by the driver (actual)"),
        [
            ("before compaction", len(listed), counted),
            ("after it", len(listed_then), counted_then),
        ],
    )
    others = len(listed_then - listed)
    notebook.see("moved by compaction (balloon_migrate)", moved, "pages")
    notebook.see("marked then and not before", others, "pages")
    notebook.claim(
        "just the pages that the driver counts are marked, before compaction and after",
        holds=len(listed) == counted == len(listed_then) == counted_then == BALLOON_PAGES,
    )
    notebook.claim(
        "compaction changes which pages these are", holds=moved > 0 and 0 < others <= moved
    )
    notebook.conclude(
        f"Compaction put {others:,} other pages into the places of as many of the"
        f" {BALLOON_PAGES:,} that virtio_balloon counts, without its count changing."
    )


def _fill_qemus(guest: QemuBalloonGuest, pages: int) -> None:
    guest.monitor.execute("balloon", value=_QEMU_BYTES - pages_to_bytes(pages))
    wait_until(lambda: _counted(guest) == pages, "the balloon does not reach its target")


def _counted(guest: QemuBalloonGuest) -> int:
    return bytes_to_pages(_QEMU_BYTES - int(guest.monitor.execute("query-balloon")["actual"]))


EXPERIMENT: Final = Experiment(
    name="balloon-dev-info",
    question="How do struct balloon_dev_info and struct virtio_balloon relate?",
    answer="balloon_dev_info is what memory management needs of any balloon, the list of its pages"
    " and how to move one; virtio_balloon is the driver's own state, and has the other inside it.",
    explanation="VMware's driver uses the same structure. Its list (pages) is guarded by its lock,"
    " isolated_pages counts those that compaction holds just now, and migratepage calls the driver"
    " back for each. Counters balloon_inflate, balloon_deflate and balloon_migrate of /proc/vmstat"
    " are kept on that side. Queues, a message's page numbers, num_pages, statistics and hints"
    " belong to virtio_balloon alone: hinted pages are on its free_page_list, cannot be moved, and"
    " may be freed without telling the host. Which pages are on the list is seen in QEMU (--kernel"
    " qemu): in User-Mode Linux /proc/kpageflags ends before them.",
    sources=(
        "Linux include/linux/balloon_compaction.h, struct balloon_dev_info",
        "Linux mm/balloon_compaction.c, balloon_page_enqueue, balloon_page_isolate",
        "Linux drivers/virtio/virtio_balloon.c, struct virtio_balloon, virtballoon_migratepage",
    ),
    runs={Kernel.UML: _on_uml, Kernel.QEMU: _on_qemu},
)
