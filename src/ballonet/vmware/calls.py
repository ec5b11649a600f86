"""The calls of VMware's balloon: numbers, registers' meanings, and the batch page.

Theory of operation.  Everything begins with the guest: a call is a command and two arguments, its
answer a status and a result.  On VMware it is `in (%dx), %eax` with the magic number in eax, the
port in edx, the command in ecx, the arguments in ebx and esi; the status comes back in eax and the
result in ebx, that of START in ecx.  Here it is a function of three numbers.

      command             argument 1            argument 2     result
  0   START               wanted capabilities   0              granted ones
  1   GET_TARGET          guest's memory        0              target
  2   LOCK, 3 UNLOCK      page                  1              target
  4   GUEST_ID            1: Linux              0              -
  6   BATCHED_LOCK, 7 BATCHED_UNLOCK            batch page and entries, target
  8   BATCHED_2M_LOCK, 9 BATCHED_2M_UNLOCK      the same
  10  VMCI_DOORBELL_SET   context               resource       -

A batch page is 512 little-endian words of 64 bits: bits 0 to 4 are the status, which the host
writes, 5 to 11 are zero, and the rest is a page number.  The status of a whole call other than
SUCCESS stands for all of its entries.
Not here: what an end does with a call (host, driver), what carries it (siblings).
Units: 4 KiB balloon pages; the page of a 2 MiB command is the first of 512.
Source: Linux drivers/misc/vmw_balloon.c.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ballonet.units import BALLOON_PAGE_SHIFT

__all__ = [
    "ALL_CAPABILITIES",
    "BATCH_ENTRIES_MAX",
    "BATCH_ENTRY_BYTES",
    "CAPABILITY_NAMES",
    "COMMAND_NAMES",
    "GUEST_ID_LINUX",
    "HUGE_PAGES",
    "INVALID_ID",
    "MAGIC",
    "NO_CAPABILITIES",
    "PORT",
    "Answer",
    "Call",
    "Capability",
    "Command",
    "PageStatuses",
    "Pfns",
    "Status",
    "capability_names",
    "entries_of",
    "page_pfns",
    "pfns_of",
    "statuses_of",
    "with_statuses",
]

PORT: Final = 0x5670
MAGIC: Final = 0x456C6D6F
GUEST_ID_LINUX: Final = 1
#: No context, or no resource, of the virtual machine communication interface.
INVALID_ID: Final = 0xFFFF_FFFF

BATCH_ENTRY_BYTES: Final = 8
BATCH_ENTRIES_MAX: Final = 512  #: what a page has room for
HUGE_PAGES: Final = 512  #: balloon pages in 2 MiB
_STATUS_MASK: Final = 0x1F

Pfns = NDArray[np.uint64]
PageStatuses = NDArray[np.uint8]


class Command(IntEnum):
    """What a guest may ask for; there is no 5."""

    START = 0  #: of a driver that wants these capabilities, or none: it goes
    GET_TARGET = 1
    LOCK = 2  #: a page is the host's
    UNLOCK = 3  #: the guest wants it back
    GUEST_ID = 4
    BATCHED_LOCK = 6
    BATCHED_UNLOCK = 7
    BATCHED_2M_LOCK = 8
    BATCHED_2M_UNLOCK = 9
    VMCI_DOORBELL_SET = 10  #: how the host can wake the driver


class Status(IntEnum):
    """Of a call, or, but for the last, of one page of it."""

    SUCCESS = 0  #: of START: the basic commands are granted
    CMD_INVALID = 1
    PPN_INVALID = 2  #: no such page
    PPN_LOCKED = 3  #: it is the host's already
    PPN_UNLOCKED = 4  #: it is not the host's
    PPN_PINNED = 5  #: the host cannot do without it
    PPN_NOTNEEDED = 6  #: the target is reached
    RESET = 7  #: nothing is as it was: the driver is to begin anew
    BUSY = 8
    SUCCESS_WITH_CAPABILITIES = 0x0300_0000  #: of START: the result says what is granted


class Capability(IntFlag):
    """What START settles on."""

    BASIC = 1 << 1  #: LOCK, UNLOCK
    BATCHED = 1 << 2
    BATCHED_2M = 1 << 3
    DOORBELL = 1 << 4
    TARGET_64 = 1 << 5  #: the target, and the guest's memory, may need more than 32 bits


NO_CAPABILITIES: Final = Capability(0)
ALL_CAPABILITIES: Final = Capability(0b111110)
CAPABILITY_NAMES: Final = {
    Capability.BASIC: "basic",
    Capability.BATCHED: "batched",
    Capability.BATCHED_2M: "batched-2m",
    Capability.DOORBELL: "doorbell",
    Capability.TARGET_64: "64-bit-target",
}
#: As Linux's debugfs has them.
COMMAND_NAMES: Final = {
    Command.START: "start",
    Command.GET_TARGET: "target",
    Command.LOCK: "lock",
    Command.UNLOCK: "unlock",
    Command.GUEST_ID: "guestType",
    Command.BATCHED_LOCK: "batchLock",
    Command.BATCHED_UNLOCK: "batchUnlock",
    Command.BATCHED_2M_LOCK: "2m-lock",
    Command.BATCHED_2M_UNLOCK: "2m-unlock",
    Command.VMCI_DOORBELL_SET: "doorbellSet",
}


class Call(NamedTuple):
    """One call, as it travels."""

    command: int
    arg1: int
    arg2: int


class Answer(NamedTuple):
    """Its answer; any number of either end, so that a wrong one can be told of."""

    status: int
    result: int


def capability_names(capabilities: Capability) -> tuple[str, ...]:
    """The words for these."""
    return tuple(name for bit, name in CAPABILITY_NAMES.items() if capabilities & bit)


def entries_of(pfns: NDArray[np.integer]) -> bytes:
    """Entries of a batch page, without statuses."""
    return (pfns.astype("<u8") << np.uint64(BALLOON_PAGE_SHIFT)).tobytes()


def pfns_of(entries: bytes) -> Pfns:
    """Page numbers of entries, whatever else stands in them."""
    return np.frombuffer(entries, "<u8").astype(np.uint64) >> np.uint64(BALLOON_PAGE_SHIFT)


def statuses_of(entries: bytes) -> PageStatuses:
    """Statuses of entries; any number below 32."""
    return (np.frombuffer(entries, "<u8") & np.uint64(_STATUS_MASK)).astype(np.uint8)


def with_statuses(pfns: Pfns, statuses: PageStatuses) -> bytes:
    """Entries as the host leaves them."""
    return (pfns << np.uint64(BALLOON_PAGE_SHIFT) | statuses).astype("<u8").tobytes()


def page_pfns(heads: Pfns, pages: int) -> Pfns:
    """Each balloon page of pages that have so many, in their order."""
    if pages == 1:
        return heads
    offsets: Pfns = np.arange(pages, dtype=np.uint64)
    return np.add.outer(heads, offsets).ravel()
