"""A balloon whose pages lie one by one between free ones: what compaction is there for.

Two files are written in turns, a page of each.  One of them then makes room for the balloon, which
takes single free pages before it breaks larger blocks; the other leaves free pages between the
balloon's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event
from typing import Final, Protocol

from ballonet.balloon.facts import ChainDone, Fact
from ballonet.errors import GuestError
from ballonet.guests.ballooned import BalloonedGuest
from ballonet.lab.driver_guest import fill
from ballonet.lab.kernel_pages import free_huge_blocks
from ballonet.virtio.queues import QueueRole

__all__ = ["BALLOON_PAGES", "MEMORY_BYTES", "Compacted", "compact", "keep_unanswered", "scatter"]

MEMORY_BYTES: Final = 128 << 20
#: 24 MiB, every second page of 48 MiB.
BALLOON_PAGES: Final = 6144
_FILE_PAGES: Final = 7168
_BEGINS_S: Final = 60.0
#: For hangs alone: the guest's kernel waits as long as its message is not answered.
_KEPT_MAX_S: Final = 200.0


class _Shell(Protocol):
    """A guest that runs commands."""

    def check(self, command: str) -> str:
        """Its output. Raises: GuestError."""
        ...

    def vmstat(self) -> dict[str, int]:
        """/proc/vmstat. Raises: GuestError."""
        ...


@dataclass(frozen=True, slots=True)
class Compacted:
    """Free blocks of 2 MiB before and after."""

    blocks_before: int
    blocks_after: int
    moved: int  #: pages of the balloon, by the kernel's own count


def scatter(guest: _Shell, fill_balloon: Callable[[int], None]) -> None:
    """Have a balloon of `BALLOON_PAGES` scattered, filled by `fill_balloon`. Raises: GuestError."""
    guest.check("echo 0 > /proc/sys/vm/compaction_proactiveness")  # nobody else is to compact
    guest.check(
        f"dd if=/dev/zero bs=4096 count={_FILE_PAGES} 2>/dev/null | tee /tmp/room > /tmp/between"
    )
    guest.check("rm /tmp/room")
    fill_balloon(BALLOON_PAGES)
    guest.check("rm /tmp/between")


def compact(guest: _Shell) -> Compacted:
    """Let the guest's kernel compact its memory, as an administrator can. Raises: GuestError."""
    blocks = free_huge_blocks(guest.check("cat /proc/buddyinfo"))
    moved_before = guest.vmstat()["balloon_migrate"]
    guest.check("echo 1 > /proc/sys/vm/compact_memory")
    moved = guest.vmstat()["balloon_migrate"] - moved_before
    return Compacted(blocks, free_huge_blocks(guest.check("cat /proc/buddyinfo")), moved)


@contextmanager
def keep_unanswered(machine: BalloonedGuest) -> Iterator[None]:
    """For the block the device answers nothing, and the driver waits with its lock taken.

    The driver moves no page while it holds that lock (virtballoon_migratepage tries it, and gives
    up), so the balloon is as one that cannot be moved.  Nothing may be asked of the device inside.
    One page more is put into the balloon by it.  Raises: GuestError.
    """
    begun, released = Event(), Event()

    def observe(fact: Fact) -> None:  # on the device's thread, before the message is answered
        if isinstance(fact, ChainDone) and fact.role is QueueRole.INFLATE:
            begun.set()
            released.wait(_KEPT_MAX_S)

    device = machine.device
    target = device.status().target_pages + 1
    device.subscribe(observe, details=True)
    try:
        device.set_target(target)
        if not begun.wait(_BEGINS_S):
            raise GuestError("the driver does not obey its new target")
        yield
    finally:
        device.unsubscribe(observe)
        released.set()
    fill(machine, target)
