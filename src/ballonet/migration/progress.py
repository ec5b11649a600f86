"""Where a migration stands, as QEMU's `query-migrate` tells it.

Source: QEMU qapi/migration.json MigrationInfo, MigrationStats.  Units: bytes, milliseconds.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from ballonet.migration.passes import Passes
from ballonet.migration.postcopy_passes import Following
from ballonet.units import BALLOON_PAGE_BYTES, pages_to_bytes

__all__ = ["Progress", "progress_of", "with_following"]

_NS_PER_MS: Final = 1_000_000


@dataclass(slots=True)
class Progress:
    """Figures of one migration; zero where nothing is known yet."""

    total_bytes: int = 0  #: of guest memory
    transferred_bytes: int = 0
    remaining_bytes: int = 0
    sent_pages: int = 0  #: with their contents
    hole_pages: int = 0  #: told as not there, or as zeros
    hinted_pages: int = 0  #: left out, because the guest said they are free
    verified_pages: int = 0  #: compared at the destination, if that was wished
    passes: int = 0
    dirty_pages_per_s: int = 0
    bytes_per_s: int = 0  #: what the channel takes
    total_ms: int = 0
    downtime_ms: int | None = None  #: once it is known
    expected_downtime_ms: int | None = None
    eta_ms: int | None = None
    throttle_percent: int = 0
    has_hints: bool = False
    wanted_pages: int = 0  #: that a guest in post-copy has asked for
    postcopy_bytes: int = 0  #: sent after it
    note: str = ""  #: what whoever watches should know

    def as_fields(self) -> dict[str, Any]:
        """For the engine's reports."""
        return asdict(self)

    def ram(self) -> dict[str, object]:
        """As QEMU's MigrationStats names it."""
        return {
            "transferred": self.transferred_bytes,
            "remaining": self.remaining_bytes,
            "total": self.total_bytes,
            "duplicate": self.hole_pages,
            "normal": self.sent_pages,
            "normal-bytes": pages_to_bytes(self.sent_pages),
            "dirty-pages-rate": self.dirty_pages_per_s,
            "mbps": self.bytes_per_s * 8 / 1e6,
            "dirty-sync-count": self.passes,
            "page-size": BALLOON_PAGE_BYTES,
            "postcopy-requests": self.wanted_pages,
            "postcopy-bytes": self.postcopy_bytes,
            "x-ballonet-hinted": self.hinted_pages,
            "x-ballonet-verified": self.verified_pages,
        }


def progress_of(passes: Passes, total_pages: int, begun_ns: int, now_ns: int) -> Progress:
    """The figures of now."""
    remaining = passes.remaining_pages
    convergence = passes.convergence
    expected_ns = convergence.downtime_ns(remaining)
    eta_ns = convergence.eta_ns(remaining)
    return Progress(
        total_bytes=pages_to_bytes(total_pages),
        transferred_bytes=passes.sent_bytes,
        remaining_bytes=pages_to_bytes(remaining),
        hinted_pages=passes.hinted_pages,
        verified_pages=passes.verified_pages,
        passes=passes.number,
        dirty_pages_per_s=int(convergence.dirty_bytes_per_s) // BALLOON_PAGE_BYTES,
        bytes_per_s=int(convergence.bytes_per_s),
        total_ms=(now_ns - begun_ns) // _NS_PER_MS,
        expected_downtime_ms=None if expected_ns is None else expected_ns // _NS_PER_MS,
        eta_ms=None if eta_ns is None else eta_ns // _NS_PER_MS,
        throttle_percent=convergence.throttle_percent,
    )


def with_following(before: Progress, following: Following, total_ms: int) -> Progress:
    """The figures while memory follows the guest; `before`: as it went, or the channel broke."""
    return replace(
        before,
        transferred_bytes=before.transferred_bytes + following.sent_bytes,
        remaining_bytes=pages_to_bytes(following.left_pages),
        wanted_pages=before.wanted_pages + following.wanted_pages,
        postcopy_bytes=before.postcopy_bytes + following.sent_bytes,
        total_ms=total_ms,
        expected_downtime_ms=None,
        eta_ms=None,
        throttle_percent=0,
    )
