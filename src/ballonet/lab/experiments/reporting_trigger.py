"""Who begins a report of free pages, when, and what is in it."""

from __future__ import annotations

from typing import Final, NamedTuple

from ballonet.balloon.facts import ConfigAnnounced, PagesReported
from ballonet.device.balloon import BalloonSettings
from ballonet.guests.ballooned import BalloonedGuest
from ballonet.guests.linux import LinuxGuestSettings
from ballonet.lab.experiment import Experiment, Kernel
from ballonet.lab.heard_facts import HeardFacts, hearing
from ballonet.lab.notebook import Notebook
from ballonet.lab.waiting import wait_for
from ballonet.units import BALLOON_PAGE_BYTES, format_bytes
from ballonet.virtio.features import RING_FEATURES, Feature

__all__ = ["EXPERIMENT"]

#: Nothing is reported of a zone that has not 32 blocks to spare: 128 MiB of those of 4 MiB.
_MEMORY_BYTES: Final = 512 << 20
_ORDER_FILE: Final = "/sys/module/page_reporting/parameters/page_reporting_order"
_FILL_BYTES: Final = 48 << 20
#: Small files, of which every second is removed: what is free then are many small blocks.
_SMALL_FILES: Final = 512
_SMALL_BYTES: Final = 128 << 10
_SMALL_ORDER: Final = 4
_MAKE_SMALL: Final = (
    "mkdir /tmp/s; i=0; while [ $i -lt {files} ]; do"
    " dd if=/dev/zero of=/tmp/s/$i bs={bytes} count=1 2> /dev/null; i=$((i + 1)); done"
)
_REMOVE_HALF: Final = "cd /tmp/s; rm *[02468]"
#: Between passes are two seconds; reports of one pass follow each other at once.
_NEXT_PASS_S: Final = 1.0


class Reports(NamedTuple):
    """Those that came since something was freed."""

    first_s: float  #: from then to the first
    last_s: float  #: to the last
    sizes_bytes: list[int]  #: of each report
    commands: int  #: how often the device told the driver anything meanwhile

    @property
    def total_bytes(self) -> int:
        """All together."""
        return sum(self.sizes_bytes)

    def row(self) -> tuple[int | str, ...]:
        """How many, how much, the smallest, and when in milliseconds."""
        return (
            len(self.sizes_bytes),
            format_bytes(self.total_bytes),
            format_bytes(min(self.sizes_bytes)),
            round(self.first_s * 1000),
            round(self.last_s * 1000),
        )


def _on_uml(notebook: Notebook) -> None:
    settings = BalloonSettings(RING_FEATURES | Feature.MUST_TELL_HOST | Feature.PAGE_REPORTING)
    with BalloonedGuest(LinuxGuestSettings(_MEMORY_BYTES), settings) as machine:
        notebook.runs_on(machine.guest.release, "User-Mode Linux")
        with hearing(machine.device) as heard:
            order = int(machine.guest.check(f"cat {_ORDER_FILE}"))
            block = BALLOON_PAGE_BYTES << order
            notebook.see("page_reporting_order", order)
            big = _free_a_file(notebook, machine, heard)
            notebook.step(f"page_reporting_order becomes {_SMALL_ORDER}")
            machine.guest.check(f"echo {_SMALL_ORDER} > {_ORDER_FILE}")
            small = _free_small_blocks(notebook, machine, heard)
    small_block = BALLOON_PAGE_BYTES << _SMALL_ORDER
    notebook.table(
        "reports",
        ("freed", "reports", "bytes", "smallest report", "first after ms", "last after ms"),
        [
            (name, *one.row())
            for name, one in (("one file", big), ("every second small file", small))
        ],
    )
    _claim(notebook, big, small, block, small_block)
    went_on_s = small.last_s - small.first_s
    notebook.conclude(
        f"The first report came {big.first_s:.1f} s after a file was removed, unasked, in blocks"
        f" of {format_bytes(block)}; with order {_SMALL_ORDER} reports of down to"
        f" {format_bytes(min(small.sizes_bytes))} went on for {went_on_s:.1f} s."
    )


def _free_a_file(notebook: Notebook, machine: BalloonedGuest, heard: HeardFacts) -> Reports:
    guest = machine.guest
    notebook.step(f"the guest writes a file of {format_bytes(_FILL_BYTES)} and keeps it")
    guest.check(f"dd if=/dev/zero bs=1M count={_FILL_BYTES >> 20} | tr '\\000' x > /tmp/fill")
    written = guest.check("md5sum /tmp/fill")
    # Free memory of the beginning is reported meanwhile, two seconds after the boot.
    wait_for(lambda: heard.of(PagesReported), "a report of what is free")
    kept = guest.check("md5sum /tmp/fill")
    notebook.claim("what is in use is not reported: the file is as written", holds=kept == written)
    notebook.step("it removes the file; nobody tells it anything")
    return _reports_after(machine, heard, "rm /tmp/fill", _FILL_BYTES * 3 // 4)


def _free_small_blocks(notebook: Notebook, machine: BalloonedGuest, heard: HeardFacts) -> Reports:
    notebook.step(
        f"it writes {_SMALL_FILES} files of {format_bytes(_SMALL_BYTES)}, and removes every second"
    )
    machine.guest.check(_MAKE_SMALL.format(files=_SMALL_FILES, bytes=_SMALL_BYTES))
    wanted = _SMALL_FILES // 2 * _SMALL_BYTES // 4
    return _reports_after(machine, heard, _REMOVE_HALF, wanted, passes_on=True)


def _reports_after(
    machine: BalloonedGuest,
    heard: HeardFacts,
    command: str,
    wanted_bytes: int,
    *,
    passes_on: bool = False,
) -> Reports:
    """Do something in the guest, and wait until so much is reported.

    With `passes_on`, also for the pass that follows the first one.  Raises: GuestError.
    """
    mark = len(heard)
    machine.guest.check(command)
    freed_s = heard.now_s()

    def is_enough() -> bool:
        total = sum(one.reported_bytes for one in heard.of(PagesReported, mark))
        times = _times(heard, mark)
        return total >= wanted_bytes and (not passes_on or times[-1] - times[0] > _NEXT_PASS_S)

    wait_for(is_enough, f"reports of {format_bytes(wanted_bytes)}")
    times = _times(heard, mark)
    return Reports(
        first_s=times[0] - freed_s,
        last_s=times[-1] - freed_s,
        sizes_bytes=[one.reported_bytes for one in heard.of(PagesReported, mark)],
        commands=len(heard.of(ConfigAnnounced, mark)),
    )


def _times(heard: HeardFacts, mark: int) -> list[float]:
    """When reports came."""
    return [one.at_s for one in heard.since(mark) if isinstance(one.fact, PagesReported)]


def _claim(notebook: Notebook, big: Reports, small: Reports, block: int, small_block: int) -> None:
    notebook.claim(
        "the guest reports by itself: the device tells it nothing meanwhile",
        holds=big.commands == small.commands == 0,
    )
    notebook.claim(
        f"only in blocks of page_reporting_order, {format_bytes(block)} here",
        holds=all(size % block == 0 for size in big.sizes_bytes),
    )
    notebook.claim(
        "with a smaller order smaller blocks are reported, too",
        holds=all(size % small_block == 0 for size in small.sizes_bytes)
        and any(size % block for size in small.sizes_bytes),
    )
    notebook.claim(
        "where there is more than one pass takes, the next follows by itself",
        holds=small.last_s - small.first_s > _NEXT_PASS_S,
    )


EXPERIMENT: Final = Experiment(
    name="reporting-trigger",
    question="Does the guest begin free page reporting by itself: when, how often, of what size?",
    answer="Yes: two seconds after it freed a block of page_reporting_order or bigger it reports"
    " up to 32 of them at a time, and goes on every two seconds while there is more; the host"
    " never asks.",
    explanation="The buddy allocator calls page_reporting_notify_free when a block of that order"
    " comes to its lists, which starts a timer of two seconds unless it runs already. Each pass"
    " walks the lists from that order upwards, takes blocks that were not reported yet off them,"
    " tells the device of up to 32 in one message, waits, and puts them back. Of each list it takes"
    " about a sixteenth in a pass, and none of a zone that has not 32 blocks to spare, so that the"
    " guest is never without free memory. The order is that of a page block: 2 MiB on a PC with"
    " huge pages, 4 MiB in User-Mode Linux; the module parameter page_reporting_order changes it.",
    sources=(
        "Virtio specification 1.3, section 5.5.6.7 (Free page reporting)",
        "Linux mm/page_reporting.c, __page_reporting_notify, page_reporting_process",
        "Linux mm/page_reporting.c, page_reporting_cycle, page_reporting_register",
        "Linux drivers/virtio/virtio_balloon.c, virtballoon_free_page_report",
    ),
    runs={Kernel.UML: _on_uml},
)
