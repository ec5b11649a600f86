"""A round of `ballonet top` for programs: null is what is not known."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from ballonet.cli.list import machine_as_json
from ballonet.cli.stats_of_all import json_key
from ballonet.cli.top.rows import Row
from ballonet.virtio.stats import STATS
from ballonet.vms.rates import LEVELS
from ballonet.vms.this_host import HostLook

__all__ = ["round_as_json"]


def round_as_json(rows: Sequence[Row], host: HostLook) -> dict[str, object]:
    """Our computer, and every machine with all that `ballonet list --json` has, and rates."""
    return {"time_s": time.time(), "host": _host(host), "machines": [_machine(row) for row in rows]}


def _host(host: HostLook) -> dict[str, object]:
    return {
        "memory_bytes": host.total_bytes,
        "available_bytes": host.available_bytes,
        "swap_bytes": host.swap_total_bytes,
        "swap_free_bytes": host.swap_free_bytes,
        "pressure": {
            name: None if one is None else asdict(one)
            for name, one in (("some", host.some), ("full", host.full))
        },
    }


def _machine(row: Row) -> dict[str, object]:
    rates = row.guest_rates or {}
    device_rates: Mapping[str, float] = row.device_rates or {}
    return {
        **machine_as_json(row.found),
        "used_bytes": row.used_bytes,
        "caches_bytes": row.caches_bytes,
        "state": row.condition.name.lower(),
        "autopilot": None if row.piloted is None else row.piloted._asdict(),
        "rates": {
            f"{json_key(one)}_per_s": rates.get(one.name) for one in STATS if one.name not in LEVELS
        },
        "device_rates": {f"{name}_per_s": rate for name, rate in device_rates.items()},
    }
