"""What a host has against single pages, besides the rules: some are pinned, some are busy.

Asked only about pages that it would lock or unlock otherwise.
Units: 4 KiB balloon pages.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import numpy as np

from ballonet.vmware.calls import PageStatuses, Pfns, Status

__all__ = ["LockPolicy", "RefusedPages"]


class LockPolicy(Protocol):
    """A status for each page, of 1 or 512 balloon pages; SUCCESS where nothing is against it."""

    def lock(self, heads: Pfns, pages: int) -> PageStatuses:
        """Of pages that the guest gives."""
        ...

    def unlock(self, heads: Pfns, pages: int) -> PageStatuses:
        """Of pages that the guest wants back."""
        ...


class RefusedPages:
    """A `LockPolicy` that knows the pages it refuses, and why; at first none."""

    def __init__(self) -> None:
        self._locks, self._unlocks = _Reasons(), _Reasons()

    def pin(self, pfns: Iterable[int]) -> None:
        """The host needs these pages where they are: they cannot be locked."""
        self._locks.add(pfns, Status.PPN_PINNED)

    def refuse_lock(self, pfns: Iterable[int], status: Status) -> None:
        """Refuse to lock these pages from now on, and blocks that they lie in."""
        self._locks.add(pfns, status)

    def refuse_unlock(self, pfns: Iterable[int], status: Status) -> None:
        """Refuse to unlock these pages from now on, and blocks that they lie in."""
        self._unlocks.add(pfns, status)

    def allow(self) -> None:
        """Refuse nothing any more."""
        self._locks, self._unlocks = _Reasons(), _Reasons()

    def lock(self, heads: Pfns, pages: int) -> PageStatuses:
        """See `LockPolicy`."""
        return self._locks.look_up(heads, pages)

    def unlock(self, heads: Pfns, pages: int) -> PageStatuses:
        """See `LockPolicy`."""
        return self._unlocks.look_up(heads, pages)


class _Reasons:
    """Why some pages are refused, in the order of their numbers."""

    def __init__(self) -> None:
        self._by_pfn: dict[int, Status] = {}
        self._pfns: Pfns = np.empty(0, np.uint64)
        self._statuses: PageStatuses = np.empty(0, np.uint8)

    def add(self, pfns: Iterable[int], status: Status) -> None:
        self._by_pfn.update(dict.fromkeys(pfns, status))
        ordered = sorted(self._by_pfn)
        self._pfns = np.array(ordered, np.uint64)
        self._statuses = np.array([self._by_pfn[pfn] for pfn in ordered], np.uint8)

    def look_up(self, heads: Pfns, pages: int) -> PageStatuses:
        """Of a block, the status of the lowest page that is refused."""
        statuses = np.zeros(heads.size, np.uint8)
        if self._pfns.size:
            places = np.searchsorted(self._pfns, heads)
            nearest = np.minimum(places, self._pfns.size - 1)
            found = places < self._pfns.size
            found &= self._pfns[nearest] < heads + np.uint64(pages)
            statuses[found] = self._statuses[nearest[found]]
        return statuses
