"""The verdict on each page that a guest gives or wants back in one call.

As if the pages came one after the other: of a page that is named twice the second time finds it
locked, or unlocked, already.  What is wrong with a page itself comes before what the host has
against it, and that before the target.
Not here: what follows from a verdict (host).
Units: 4 KiB balloon pages; `pages` of them, 1 or 512, make the page that a head names.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ballonet.vmware.calls import PageStatuses, Pfns, Status
from ballonet.vmware.lock_policy import LockPolicy
from ballonet.vmware.locked_pages import LockedPages

__all__ = ["verdicts_on_lock", "verdicts_on_unlock"]

#: In the arrays of one call.
Places = NDArray[np.intp]


def verdicts_on_lock(
    locked: LockedPages, policy: LockPolicy, heads: Pfns, pages: int, room_pages: int
) -> PageStatuses:
    """Of pages that the guest gives, while less than `room_pages` have been locked by the call.

    The last page may be bigger than the room that is left.
    """
    statuses = _of_memory(locked, heads, pages)
    _refuse(statuses, Status.PPN_LOCKED, lambda rest: locked.overlap(heads[rest], pages))
    _ask(statuses, lambda rest: policy.lock(heads[rest], pages))
    wanted, firsts = _wanted(statuses, heads)
    room = max(0, -(-room_pages // pages))
    chosen = wanted[wanted == firsts][:room]
    last = chosen[-1] if chosen.size else -1
    statuses[wanted] = np.where(firsts <= last, Status.PPN_LOCKED, Status.PPN_NOTNEEDED)
    statuses[chosen] = Status.SUCCESS
    return statuses


def verdicts_on_unlock(
    locked: LockedPages, policy: LockPolicy, heads: Pfns, pages: int
) -> PageStatuses:
    """Of pages that the guest wants back; each is unlocked as it was locked."""
    statuses = _of_memory(locked, heads, pages)
    _refuse(statuses, Status.PPN_UNLOCKED, lambda rest: ~locked.hold(heads[rest], pages))
    _ask(statuses, lambda rest: policy.unlock(heads[rest], pages))
    wanted, firsts = _wanted(statuses, heads)
    statuses[wanted] = np.where(wanted == firsts, Status.SUCCESS, Status.PPN_UNLOCKED)
    return statuses


def _of_memory(locked: LockedPages, heads: Pfns, pages: int) -> PageStatuses:
    is_memory = locked.name_memory(heads, pages)
    return np.where(is_memory, Status.SUCCESS, Status.PPN_INVALID).astype(np.uint8)


def _refuse(
    statuses: PageStatuses, why: Status, which: Callable[[Places], NDArray[np.bool_]]
) -> None:
    """Give those a status that have none yet, and are among `which`."""
    rest = np.flatnonzero(statuses == 0)
    statuses[rest[which(rest)]] = why


def _ask(statuses: PageStatuses, policy: Callable[[Places], PageStatuses]) -> None:
    rest = np.flatnonzero(statuses == 0)
    statuses[rest] = policy(rest)


def _wanted(statuses: PageStatuses, heads: Pfns) -> tuple[Places, Places]:
    """Places of all that have no status yet, and for each where its page is named first."""
    wanted = np.flatnonzero(statuses == 0)
    if wanted.size <= 1:
        return wanted, wanted
    _, firsts, same = np.unique(heads[wanted], return_index=True, return_inverse=True)
    return wanted, wanted[firsts[same]]
