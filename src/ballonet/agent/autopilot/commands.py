"""Commands of the agent's own monitor: what the autopilot sees, decides, and is asked for.

Null is unknown.  Units: bytes left to the guest (logical size), seconds.
Source: none; these are ours, beside what every monitor of QEMU's kind knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ballonet.agent.autopilot.autopilot import Autopilot
from ballonet.autopilot.budget import HostState
from ballonet.autopilot.explanation import Verdict, say
from ballonet.autopilot.law import Step
from ballonet.qmp.commands import Arguments, Command, Parameter
from ballonet.qmp.errors import CommandError

__all__ = ["AUTOPILOT_COMMANDS"]

_LAST_MOST: Final = 100
_RESERVE_S_MOST: Final = 86400
_SIZE_MOST: Final = 1 << 62


def _query(autopilot: Autopilot, _: Arguments) -> object:
    decided = autopilot.newest
    wishes = autopilot.asked.wishes
    return {
        "enabled": autopilot.settings.enable,
        "dry-run": autopilot.is_dry_run,
        "mode": autopilot.settings.mode,
        "round": autopilot.rounds,
        "next-look": None if decided is None else decided.next_look_s,
        "reserved": wishes.lease_bytes,
        "seconds-until-reserved": autopilot.seconds_until_reserved(),
        "host": None if decided is None else _host(decided),
        "vms": [] if decided is None else _vms(autopilot, decided),
        "alarms": [] if decided is None else [one.text for one in decided.alarms],
    }


def _host(decided: Step) -> dict[str, object]:
    budget = decided.budget
    return {
        "state": budget.state.name.lower(),
        "available": budget.available_bytes,
        "reserve": budget.reserve_bytes,
        "budget": budget.budget_bytes,
        "free": budget.free_bytes,
        "promised": budget.promised_bytes,
        "is-short": budget.state is not HostState.GREEN,
    }


def _vms(autopilot: Autopilot, decided: Step) -> list[dict[str, object]]:
    paused = autopilot.asked.wishes.paused
    rows: list[dict[str, object]] = []
    for verdict in decided.verdicts:
        one = decided.standings[verdict.vm]
        known = one.record.estimate
        rows.append(
            {
                "vm": verdict.vm,
                "state": verdict.state.value,
                "paused": verdict.vm in paused,
                "memory": one.record.memory_bytes,
                "actual": one.record.sizes.actual_bytes,
                "target": one.record.sizes.target_bytes,
                "wanted": verdict.to_bytes,
                "least": one.least_bytes,
                "weight": one.weight,
                "used": None if known is None else known.used_bytes,
                "need": None if known is None else one.need.cache_bytes,
                "allotted": decided.allotted[verdict.vm],
                "reason": verdict.reason.name.lower(),
                "because": say(verdict.reason, verdict.figures),
            }
        )
    return rows


def _why(autopilot: Autopilot, arguments: Arguments) -> object:
    vm = _known(autopilot, arguments)
    last = arguments.get("last", 10)
    if not (isinstance(last, int) and 1 <= last <= _LAST_MOST):
        raise CommandError(f"Parameter 'last' expects a value from 1 to {_LAST_MOST}")
    decided = autopilot.newest
    now = [one for one in (decided.verdicts if decided else ()) if one.vm == vm]
    return {
        "vm": vm,
        "now": _decision(now[0]) if now else None,
        "last": [_decision(one) for one in autopilot.ledger.last(vm, last)],
    }


def _decision(verdict: Verdict) -> dict[str, object]:
    return {
        "at": verdict.at_s,
        "from": verdict.from_bytes,
        "to": verdict.to_bytes,
        "state": verdict.state.value,
        "reason": verdict.reason.name.lower(),
        "because": say(verdict.reason, verdict.figures),
    }


def _pause(autopilot: Autopilot, arguments: Arguments) -> object:
    autopilot.pause(_known(autopilot, arguments))
    return {}


def _resume(autopilot: Autopilot, arguments: Arguments) -> object:
    vm = str(arguments["vm"])
    paused = sorted(autopilot.asked.wishes.paused)
    if vm not in paused:
        raise CommandError(f"{vm} is not paused; paused: {', '.join(paused) or 'none'}")
    autopilot.resume(vm)
    return {}


def _dry_run(autopilot: Autopilot, arguments: Arguments) -> object:
    wanted = arguments["on"]
    if not isinstance(wanted, bool):
        raise CommandError("Invalid parameter type for 'on', expected: boolean")
    if not wanted and not autopilot.settings.enable:
        raise CommandError("the configuration has no `enable = true` in [autopilot]")
    autopilot.try_only(is_dry_run=wanted)
    return {}


def _reserve(autopilot: Autopilot, arguments: Arguments) -> object:
    size = _within(arguments, "size", 1, _SIZE_MOST)
    autopilot.reserve(size, _within(arguments, "seconds", 1, _RESERVE_S_MOST))
    return {}


def _release(autopilot: Autopilot, _: Arguments) -> object:
    autopilot.reserve(0, 0)
    return {}


def _known(autopilot: Autopilot, arguments: Arguments) -> str:
    """A machine, by the law's name or, if only one has it, its own. Raises: CommandError."""
    name = str(arguments["vm"])
    if name in autopilot.machines:
        return name
    found = [vm for vm in autopilot.machines if vm.partition(":")[2] == name]
    if len(found) == 1:
        return found[0]
    names = ", ".join(sorted(found or autopilot.machines)) or "none"
    few = "several machines have that name" if found else "no machine has that name"
    raise CommandError(f"{few}: {names}")


def _within(arguments: Arguments, name: str, least: int, most: int) -> int:
    value = arguments[name]
    if not (isinstance(value, int) and least <= value <= most):
        raise CommandError(f"Parameter '{name}' expects a value from {least} to {most}")
    return value


_VM: Final = Parameter("vm", "str")
AUTOPILOT_COMMANDS: Final[Mapping[str, Command]] = {
    "x-ballonet-query-autopilot": Command(
        _query, returns="any", help="the host, every machine with its state and need, alarms"
    ),
    "x-ballonet-autopilot-why": Command(
        _why,
        (_VM, Parameter("last", "int", required=False)),
        "any",
        "what is decided for a machine now, and the `last` decisions (10) that changed something",
    ),
    "x-ballonet-autopilot-pause": Command(_pause, (_VM,), help="leave a machine alone"),
    "x-ballonet-autopilot-resume": Command(_resume, (_VM,), help="... no more"),
    "x-ballonet-autopilot-dry-run": Command(
        _dry_run, (Parameter("on", "any"),), help="only decide, or carry out what is decided again"
    ),
    "x-ballonet-autopilot-reserve": Command(
        _reserve,
        (Parameter("size", "int"), Parameter("seconds", "int")),
        help="keep so many bytes more for the host, for so many seconds",
    ),
    "x-ballonet-autopilot-release": Command(_release, help="keep them no more"),
}
