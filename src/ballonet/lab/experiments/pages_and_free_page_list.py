"""Pages of the balloon and hinted pages: two lists of one driver, and who may shorten which."""

from __future__ import annotations

from typing import Final, NamedTuple

from ballonet.balloon.facts import (
    ActualChanged,
    ChainDone,
    ConfigWritten,
    HintRoundChanged,
    Kicked,
    PagesHinted,
)
from ballonet.device.balloon import BalloonSettings
from ballonet.errors import GuestError
from ballonet.guests.ballooned import BalloonedGuest
from ballonet.guests.linux import LinuxGuestSettings
from ballonet.lab.experiment import Experiment, Kernel
from ballonet.lab.heard_facts import HeardFacts, hearing
from ballonet.lab.notebook import Notebook
from ballonet.lab.waiting import wait_for
from ballonet.units import bytes_to_pages, format_bytes, pages_to_bytes
from ballonet.virtio.features import RING_FEATURES, Feature
from ballonet.virtio.queues import QueueRole

__all__ = ["EXPERIMENT"]

_MEMORY_BYTES: Final = 256 << 20
_SMALL_PAGES: Final = bytes_to_pages(32 << 20)
_LEASE_S: Final = 600.0
_STALLED_S: Final = 120.0
_MIB: Final = 1 << 20
_FEATURES: Final = Feature.MUST_TELL_HOST | Feature.FREE_PAGE_HINT | Feature.DEFLATE_ON_OOM
#: Of a process: one buffer, which is there or is not.
_NEED: Final = (
    "echo 1 > /proc/sys/vm/overcommit_memory; dd if=/dev/zero of=/dev/null bs={}M count=1"
)


class Taken(NamedTuple):
    """What the device was told while the guest took memory, and what it has then."""

    inflate_messages: int
    deflate_messages: int
    hint_messages: int  #: and kicks of that queue
    writes: int  #: of the configuration
    actual_pages: int
    named_pages: int  #: in deflate messages
    taken_pages: int  #: out of the balloon, by the guest's own count
    moved_pages: int  #: to another place, by its own count: one in, one out


def _on_uml(notebook: Notebook) -> None:
    settings = BalloonSettings(RING_FEATURES | _FEATURES)
    with BalloonedGuest(LinuxGuestSettings(_MEMORY_BYTES), settings) as machine:
        notebook.runs_on(machine.guest.release, "User-Mode Linux")
        with hearing(machine.device) as heard:
            hinted = _look_at_hinted_pages(notebook, machine, heard)
            pages = _look_at_balloon_pages(notebook, machine, heard)
    notebook.table(
        "what the device heard while the guest took memory",
        ("taken from", *(heading.replace("_", " ") for heading in Taken._fields)),
        [("free_page_list", *hinted), ("pages", *pages)],
    )
    _claim(notebook, hinted, pages)
    words = hinted.hint_messages + hinted.writes + hinted.deflate_messages - hinted.moved_pages
    notebook.conclude(
        f"Of hinted pages the guest took memory with {words} words to the device; from the balloon"
        f" {pages.taken_pages:,} pages with {pages.deflate_messages} deflate messages and"
        f" {pages.writes} writes of actual."
    )


def _look_at_hinted_pages(notebook: Notebook, machine: BalloonedGuest, heard: HeardFacts) -> Taken:
    guest, device = machine.guest, machine.device
    _resize(machine, _SMALL_PAGES)
    before = guest.meminfo()["MemFree"]
    notebook.step("a hint round, to which no DONE follows: the driver keeps what it has named")
    mark = len(heard)
    device.hints.begin(_LEASE_S).result()
    wait_for(lambda: _is_over(heard, mark), "the end of a hint round")
    hinted = pages_to_bytes(sum(one.runs.total_pages for one in heard.of(PagesHinted, mark)))
    during = guest.meminfo()["MemFree"]
    notebook.see("MemFree before", before, "bytes")
    notebook.see("hinted", hinted, "bytes")
    notebook.see("MemFree with hinted pages kept", during, "bytes")
    need = during + hinted // 2 >> 20
    notebook.step(f"the guest writes a file of {need} MiB, more than it has free")
    taken = _take(machine, heard, f"dd if=/dev/zero of=/tmp/fill bs=1M count={need}")
    guest.check("rm /tmp/fill")
    back = guest.meminfo()["MemFree"]
    notebook.see("MemFree when the file is gone, still without DONE", back, "bytes")
    notebook.step("DONE: the driver gives back what is left of them")
    device.hints.finish().result()
    after = wait_for(lambda: _at_least(machine, before * 9 // 10), "memory after DONE")
    notebook.see("MemFree after DONE", after, "bytes")
    notebook.claim(
        "hinted pages are missing from the guest's free memory until somebody gives them back",
        holds=before - during > hinted * 3 // 4,
    )
    notebook.claim(
        "short of memory the guest takes them back by itself, before DONE",
        holds=back - during > need * _MIB // 2 - _MIB and need * _MIB > during,
    )
    return taken


def _look_at_balloon_pages(notebook: Notebook, machine: BalloonedGuest, heard: HeardFacts) -> Taken:
    guest = machine.guest
    target = bytes_to_pages(guest.meminfo()["MemAvailable"] * 3 // 4) + _SMALL_PAGES
    notebook.step(f"the balloon becomes {format_bytes(pages_to_bytes(target))} big")
    _resize(machine, target)
    need = (guest.meminfo()["MemAvailable"] + pages_to_bytes(target) // 4) >> 20
    notebook.step(f"a process needs {need} MiB, more than is left: the guest runs out of memory")
    mark = len(heard)
    taken = _take(machine, heard, _NEED.format(need))
    notebook.see("balloon before", target, "pages")
    notebook.see("balloon afterwards", taken.actual_pages, "pages")
    notebook.claim(
        "out of memory the guest takes pages out of the balloon, and says so in `actual`",
        holds=taken.actual_pages < target and bool(heard.of(ActualChanged, mark)),
    )
    return taken


def _claim(notebook: Notebook, hinted: Taken, pages: Taken) -> None:
    notebook.claim(
        "of hinted pages that the guest takes back the host is told nothing: what it hears of is"
        " pages of the balloon that the guest's kernel moves",
        holds=hinted.hint_messages == hinted.writes == 0
        and hinted.inflate_messages == hinted.deflate_messages == hinted.moved_pages,
    )
    notebook.claim(
        "and while there are hinted pages to take, no page of the balloon is taken",
        holds=hinted.taken_pages == 0 and hinted.actual_pages == _SMALL_PAGES,
    )
    notebook.claim(
        "each page that leaves the balloon was named in a deflate message",
        holds=pages.named_pages == pages.taken_pages + pages.moved_pages and pages.taken_pages > 0,
    )


def _take(machine: BalloonedGuest, heard: HeardFacts, command: str) -> Taken:
    """Have the guest do what takes memory. Raises: GuestError."""
    mark, before = len(heard), machine.guest.vmstat()
    machine.guest.check(command)
    after = machine.guest.vmstat()
    done = heard.of(ChainDone, mark)
    kicks = [one for one in heard.of(Kicked, mark) if one.role is QueueRole.HINT]
    roles = [one.role for one in done]
    return Taken(
        inflate_messages=roles.count(QueueRole.INFLATE),
        deflate_messages=roles.count(QueueRole.DEFLATE),
        hint_messages=roles.count(QueueRole.HINT) + len(kicks),
        writes=len(heard.of(ConfigWritten, mark)),
        actual_pages=machine.device.status().actual_pages,
        named_pages=sum(one.pages for one in done if one.role is QueueRole.DEFLATE),
        taken_pages=after["balloon_deflate"] - before["balloon_deflate"],
        moved_pages=after["balloon_migrate"] - before["balloon_migrate"],
    )


def _is_over(heard: HeardFacts, mark: int) -> bool:
    states = [one.state for one in heard.of(HintRoundChanged, mark)]
    return "START" in states and states[-1] != "START"


def _at_least(machine: BalloonedGuest, wanted_bytes: int) -> int:
    """Free memory, once it is so much; else 0."""
    free = machine.guest.meminfo()["MemFree"]
    return free if free >= wanted_bytes else 0


def _resize(machine: BalloonedGuest, pages: int) -> None:
    if not machine.resize(pages, stalled_after_s=_STALLED_S).reached:
        raise GuestError(f"there is no balloon of {pages:,} pages")


EXPERIMENT: Final = Experiment(
    name="pages-and-free-page-list",
    question="Which pages are on `pages`, which on `free_page_list`, and who may shorten which?",
    answer="`pages` are those of the balloon, which the guest may take back only with a deflate"
    " message; `free_page_list` are hinted pages, which it takes back without a word whenever it"
    " is short of memory.",
    explanation="A page of the balloon is the host's: the host has dropped it, counts on it, and is"
    " told when it leaves (with DEFLATE_ON_OOM by a notifier that is called before a process would"
    " be killed; else only by a smaller target). A hinted page was never anybody else's. The"
    " driver has allocated it so that its contents do not change while a migration leaves it out;"
    " should the guest write to it all the same, the migration's dirty log sees that. So a shrinker"
    " may free hinted pages under pressure, and nothing is lost but the saving. DONE frees what is"
    " left of them. That pages of the balloon are moved under pressure, each with an inflate and"
    " a deflate message of one page, is compaction, and takes nothing out of the balloon.",
    sources=(
        "Virtio specification 1.3, sections 5.5.6.1 and 5.5.6.5 (Free page hinting)",
        "Linux drivers/virtio/virtio_balloon.c, virtio_balloon_shrinker_scan, shrink_free_pages",
        "Linux drivers/virtio/virtio_balloon.c, virtio_balloon_oom_notify, leak_balloon",
        "Linux include/linux/balloon_compaction.h, struct balloon_dev_info",
    ),
    runs={Kernel.UML: _on_uml},
)
