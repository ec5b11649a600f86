"""What the published descriptions of two REST APIs say of a balloon: paths, members, their types.

Facts, not text, taken from Firecracker src/firecracker/swagger/firecracker.yaml (1.17.0-dev) and
Cloud Hypervisor vmm/src/api/openapi/cloud-hypervisor.yaml (API 0.3.0), read in November 2026.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

__all__ = ["FACTS", "disagreements"]


class Fact(NamedTuple):
    """One request, and what is said of it and its answer."""

    status: int  #: of success
    sent: Mapping[str, type] = {}  #: required members of the body
    required: Mapping[str, type] = {}  #: of the answer
    optional: Mapping[str, type] = {}


_STATISTICS: Final = (
    *("swap_in", "swap_out", "major_faults", "minor_faults", "free_memory", "total_memory"),
    *("available_memory", "disk_caches", "hugetlb_allocations", "hugetlb_failures", "oom_kill"),
    *("alloc_stall", "async_scan", "direct_scan", "async_reclaim", "direct_reclaim"),
)
FACTS: Final[Mapping[str, Fact]] = {
    "GET /": Fact(200, required=dict.fromkeys(("app_name", "id", "state", "vmm_version"), str)),
    "GET /machine-config": Fact(
        200, required={"vcpu_count": int, "mem_size_mib": int}, optional={"smt": bool}
    ),
    "GET /hotplug/memory": Fact(200, optional={"plugged_size_mib": int}),
    "GET /balloon": Fact(
        200,
        required={"amount_mib": int, "deflate_on_oom": bool},
        optional={
            "stats_polling_interval_s": int,
            "free_page_hinting": bool,
            "free_page_reporting": bool,
        },
    ),
    "PATCH /balloon": Fact(204, sent={"amount_mib": int}),
    "GET /balloon/statistics": Fact(
        200,
        required=dict.fromkeys(("target_pages", "actual_pages", "target_mib", "actual_mib"), int),
        optional=dict.fromkeys(_STATISTICS, int),
    ),
    "PATCH /balloon/statistics": Fact(204, sent={"stats_polling_interval_s": int}),
    "GET /api/v1/vm.info": Fact(
        200,
        required={"config": dict, "state": str},
        optional={"memory_actual_size": int, "device_tree": dict},
    ),
    "PUT /api/v1/vm.resize": Fact(204, sent={"desired_balloon": int}),
}


def disagreements(said: Mapping[str, Any]) -> list[str]:
    """Where one request and its answer are not as the facts have them."""
    name = f"{said['method']} {said['path']}"
    fact = FACTS.get(name)
    if fact is None:
        return [f"{name} is in no description"]
    found = _members(name, said["body"] or {}, fact.sent, {})
    if said["status"] == fact.status:
        found += _members(name, said["answer"] or {}, fact.required, fact.optional)
    elif 200 <= said["status"] < 300:
        found.append(f"{name}: status {said['status']}")
    return found


def _members(
    name: str,
    members: Mapping[str, object],
    required: Mapping[str, type],
    optional: Mapping[str, type],
) -> list[str]:
    allowed = {**required, **optional}
    missing = [f"{name} without {one}" for one in required if one not in members]
    wrong = [
        f"{name}: {key} is {value!r}"
        for key, value in members.items()
        if key not in allowed or type(value) is not allowed[key]
    ]
    return missing + wrong
