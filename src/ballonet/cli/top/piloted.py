"""What the autopilot of this host's agent thinks of each machine, if there is one.

Units: bytes, seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from ballonet.cli.agent_monitor import ask_agent
from ballonet.cli.top.rows import Piloted, Row

__all__ = ["ask_autopilot", "with_autopilot"]

_QUERY: Final = "x-ballonet-query-autopilot"


async def ask_autopilot() -> Mapping[str, Piloted]:
    """Of each machine, by `kind:name`; nothing where no agent of this user runs, or answers."""
    told = await ask_agent(_QUERY)
    try:
        return {row["vm"]: _piloted(row, is_dry_run=told["dry-run"]) for row in told["vms"]}
    except (KeyError, TypeError):
        return {}  # the table does without; `ballonet autopilot status` says why


def with_autopilot(rows: Iterable[Row], piloted: Mapping[str, Piloted]) -> list[Row]:
    """The same rows, each with what is thought of it."""
    return [
        replace(row, piloted=piloted.get(f"{row.key.kind}:{row.key.name}"))
        if not row.key.number
        else row
        for row in rows
    ]


def _piloted(row: Mapping[str, Any], *, is_dry_run: bool) -> Piloted:
    return Piloted(
        str(row["state"]),
        None if row["need"] is None else int(row["need"]),
        int(row["wanted"]),
        str(row["because"]),
        is_dry_run,
    )
