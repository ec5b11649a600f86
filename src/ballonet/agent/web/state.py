"""What the page shows of a round, as one JSON object; its structs describe it for OpenAPI, too.

None is unknown.  Units: bytes, seconds; moments are times of day.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import nlargest
from typing import Final

from msgspec import Struct

from ballonet.agent.autopilot.autopilot import Autopilot
from ballonet.agent.labels import vm_names
from ballonet.agent.round import Round
from ballonet.autopilot.explanation import Verdict, say
from ballonet.autopilot.law import Step
from ballonet.vms.discovery import Found

__all__ = [
    "AutopilotState",
    "Decision",
    "HostState",
    "Snapshot",
    "Statistic",
    "VmDetails",
    "VmState",
    "details_of",
    "newest_decisions",
    "snapshot_of",
]

_DECISIONS_MOST: Final = 50


class HostState(Struct, frozen=True):
    """The host's own memory."""

    total_bytes: int | None
    available_bytes: int | None
    swap_used_bytes: int | None
    some_share: float | None  #: of the last 10 s in which some program waited for memory
    full_share: float | None


class AutopilotState(Struct, frozen=True):
    """What it does, and has to divide."""

    enabled: bool
    dry_run: bool
    mode: str
    budget_bytes: int
    free_bytes: int  #: below 0: so much has to come back
    promised_bytes: int
    reserve_bytes: int
    leased_bytes: int
    alarms: list[str]


class VmState(Struct, frozen=True):
    """One machine now."""

    vm: str  #: `kind:name`
    kind: str
    name: str
    why_not: str  #: why it cannot be asked; empty: it answers
    problem: str
    memory_bytes: int | None
    target_bytes: int | None
    actual_bytes: int | None
    available_bytes: int | None
    held_bytes: int | None
    paused: bool | None
    driver: bool | None
    stats_age_s: float | None
    need_bytes: int | None
    state: str  #: of the autopilot's; empty: not known to it
    left_alone: bool  #: somebody has paused the autopilot for it
    because: str


class Decision(Struct, frozen=True):
    """One change, in words."""

    at_s: float
    vm: str
    from_bytes: int
    to_bytes: int
    because: str


class Snapshot(Struct, frozen=True):
    """One round."""

    round: int
    at_s: float
    problem: str  #: why it is not known which machines run
    may_act: bool  #: there is a token by which things can be changed
    host: HostState
    autopilot: AutopilotState | None
    vms: list[VmState]
    decisions: list[Decision]  #: the newest first


class Statistic(Struct, frozen=True):
    """What a guest has said."""

    name: str
    value: int
    age_s: float | None


class VmDetails(Struct, frozen=True):
    """Everything about one machine."""

    now: VmState
    uri: str
    pid: int | None
    statistics: list[Statistic]
    features: list[str]  #: that our device and the driver agreed on
    decisions: list[Decision]


def snapshot_of(one: Round, autopilot: Autopilot, *, may_act: bool) -> Snapshot:
    """Everything that the page shows at once."""
    names = vm_names([found.sighting.who for found in one.found])
    decided = autopilot.newest
    verdicts = {} if decided is None else {verdict.vm: verdict for verdict in decided.verdicts}
    vms = [
        _vm(vm, found, autopilot, verdicts.get(vm))
        for vm, found in zip(names, one.found, strict=True)
    ]
    return Snapshot(
        one.number,
        one.ended_wall_s,
        one.problem,
        may_act,
        _host(one),
        None if decided is None else _autopilot(autopilot, decided),
        vms,
        newest_decisions(autopilot, names, one.ended_wall_s - one.ended_s),
    )


def details_of(vm: str, found: Found, one: Round, autopilot: Autopilot) -> VmDetails:
    """One machine of a round."""
    look = found.observation
    verdicts = () if autopilot.newest is None else autopilot.newest.verdicts
    verdict = next((verdict for verdict in verdicts if verdict.vm == vm), None)
    device = look.device
    return VmDetails(
        _vm(vm, found, autopilot, verdict),
        look.who.uri,
        look.who.pid,
        [Statistic(name, aged.value, aged.age_s) for name, aged in look.statistics.items()],
        [] if device is None else list(device.features or ()),
        newest_decisions(autopilot, [vm], one.ended_wall_s - one.ended_s),
    )


def newest_decisions(
    autopilot: Autopilot, vms: Iterable[str], wall_offset_s: float
) -> list[Decision]:
    """The last that changed something, the newest first."""
    verdicts = (one for vm in vms for one in autopilot.ledger.last(vm, _DECISIONS_MOST))
    return [
        _decision(one, wall_offset_s)
        for one in nlargest(_DECISIONS_MOST, verdicts, key=lambda one: one.at_s)
    ]


def _decision(verdict: Verdict, wall_offset_s: float) -> Decision:
    return Decision(
        verdict.at_s + wall_offset_s,
        verdict.vm,
        verdict.from_bytes,
        verdict.to_bytes,
        say(verdict.reason, verdict.figures),
    )


def _host(one: Round) -> HostState:
    host = one.host
    used = None
    if host.swap_total_bytes is not None and host.swap_free_bytes is not None:
        used = host.swap_total_bytes - host.swap_free_bytes
    return HostState(
        host.total_bytes,
        host.available_bytes,
        used,
        None if host.some is None else host.some.avg10,
        None if host.full is None else host.full.avg10,
    )


def _autopilot(autopilot: Autopilot, decided: Step) -> AutopilotState:
    budget = decided.budget
    return AutopilotState(
        autopilot.settings.enable,
        autopilot.is_dry_run,
        autopilot.settings.mode,
        budget.budget_bytes,
        budget.free_bytes,
        budget.promised_bytes,
        budget.reserve_bytes,
        autopilot.asked.wishes.lease_bytes,
        [alarm.text for alarm in decided.alarms],
    )


def _vm(vm: str, found: Found, autopilot: Autopilot, verdict: Verdict | None) -> VmState:
    look, decided = found.observation, autopilot.newest
    standing = None if decided is None else decided.standings.get(vm)
    is_known = standing is not None and standing.record.estimate is not None
    return VmState(
        vm,
        look.who.kind,
        vm.partition(":")[2],
        found.why_not,
        look.problem or "",
        look.memory_bytes,
        look.target_bytes if standing is None else standing.record.sizes.target_bytes,
        look.actual_bytes,
        look.available_bytes,
        look.host.held_bytes,
        look.paused,
        look.has_driver,
        look.stats_age_s,
        standing.need.cache_bytes if standing is not None and is_known else None,
        "" if verdict is None else verdict.state.value,
        vm in autopilot.asked.wishes.paused,
        "" if verdict is None else say(verdict.reason, verdict.figures),
    )
