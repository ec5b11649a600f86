"""Rounds and what was decided as lines of JSON, so that they can be looked at and decided again.

Unknown is null.  A line that is no round is refused whole; unknown members are ignored, so that an
older program reads the lines of a newer one.
Units: as in the names; names are those of sample.py and explanation.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, fields
from typing import Any, Final

from ballonet.autopilot.explanation import Verdict, say
from ballonet.autopilot.sample import HostSample, Round, VmSample
from ballonet.errors import WireError

__all__ = ["decision_line", "parse_round", "replay_rounds", "round_line"]

_SOURCE: Final = "docs/autopilot.md"
_NUMBERS: Final = (int, float)
_WORDS: Final = frozenset({"vm", "no_answer", "in_use"})
_TRUTHS: Final = frozenset({"has_driver", "deflates_on_oom"})


def round_line(seen: Round) -> str:
    """A round as one line."""
    return json.dumps({"round": asdict(seen)}, separators=(",", ":"), sort_keys=True)


def decision_line(verdict: Verdict) -> str:
    """A decision as one line, its reason in words beside its figures."""
    line = {
        "decision": {
            "at_s": verdict.at_s,
            "vm": verdict.vm,
            "from_bytes": verdict.from_bytes,
            "to_bytes": verdict.to_bytes,
            "state": verdict.state.value,
            "reason": verdict.reason.name.lower(),
            "because": say(verdict.reason, verdict.figures),
            "figures": _finite(verdict.figures),
        }
    }
    return json.dumps(line, separators=(",", ":"), sort_keys=True)


def replay_rounds(lines: Iterable[str]) -> Iterator[Round]:
    """The rounds among lines, in order; decisions are passed over. Raises: WireError."""
    for number, line in enumerate(lines, 1):
        if '"decision"' not in line[:14] and line.strip():
            yield parse_round(line, number)


def parse_round(line: str, number: int = 1) -> Round:
    """Read a line. Raises: WireError, if it is no round."""
    where, shown = f"line {number}", line.strip()[:40]
    try:
        said = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise WireError(where, shown, "must be JSON", _SOURCE) from error
    body = said.get("round") if isinstance(said, dict) else None
    if not isinstance(body, dict) or not isinstance(body.get("vms"), list):
        raise WireError(where, shown, "must be a round with vms", _SOURCE)
    host = body.get("host")
    return Round(
        _number(body.get("at_s"), f"{where}: at_s"),
        HostSample(**_members(HostSample, host, f"{where}: host")),
        tuple(
            VmSample(**_members(VmSample, one, f"{where}: vms[{index}]"))
            for index, one in enumerate(body["vms"])
        ),
        _number(body.get("period_s", 1.0), f"{where}: period_s"),
        int(_number(body.get("lease_bytes", 0), f"{where}: lease_bytes")),
    )


def _members(kind: type[HostSample | VmSample], said: object, where: str) -> dict[str, Any]:
    """What is known of a value's members, each checked."""
    if not isinstance(said, dict):
        raise WireError(where, said, "must be an object", _SOURCE)
    if kind is VmSample and "vm" not in said:
        raise WireError(where, said, "must say which vm", _SOURCE)
    found: dict[str, Any] = {}
    for member in fields(kind):
        value = said.get(member.name)
        if value is None:
            continue
        place = f"{where}: {member.name}"
        if member.name == "statistics":
            found[member.name] = _statistics(value, place)
        elif member.name in _WORDS or member.name in _TRUTHS:
            wanted = str if member.name in _WORDS else bool
            if not isinstance(value, wanted):
                raise WireError(place, value, f"must be a {wanted.__name__}", _SOURCE)
            found[member.name] = value
        else:
            number = _number(value, place)
            found[member.name] = int(number) if member.name.endswith("_bytes") else number
    return found


def _statistics(said: object, where: str) -> Mapping[str, int]:
    if not isinstance(said, dict):
        raise WireError(where, said, "must be an object", _SOURCE)
    return {str(name): int(_number(value, f"{where}: {name}")) for name, value in said.items()}


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, _NUMBERS) or value != value:
        raise WireError(where, value, "must be a number", _SOURCE)
    if abs(value) >= float(1 << 80):
        raise WireError(where, value, "must be a number below 2^80", _SOURCE)
    return value


def _finite(figures: Mapping[str, int | float | str]) -> dict[str, int | float | str | None]:
    """Never is null: JSON has no infinity."""
    return {
        name: None if isinstance(one, float) and abs(one) == float("inf") else one
        for name, one in figures.items()
    }
