"""What the kernel counts, named as in Linux's /proc/vmstat."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["VmCounters"]


@dataclass(slots=True)
class VmCounters:
    """Since boot; pages are guest pages."""

    pgfault: int = 0
    pgmajfault: int = 0
    pgfree: int = 0
    pgalloc: int = 0
    pgpgin: int = 0
    pgpgout: int = 0
    pswpin: int = 0
    pswpout: int = 0
    allocstall: int = 0
    pgscan_kswapd: int = 0
    pgscan_direct: int = 0
    pgsteal_kswapd: int = 0
    pgsteal_direct: int = 0
    drop_pagecache: int = 0
    oom_kill: int = 0
    compact_stall: int = 0
    compact_migrate_scanned: int = 0
    compact_isolated: int = 0
    pgmigrate_success: int = 0
    pgmigrate_fail: int = 0
    balloon_inflate: int = 0
    balloon_deflate: int = 0
    balloon_migrate: int = 0
