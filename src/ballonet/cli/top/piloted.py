"""What the autopilot of this host's agent thinks of each machine, if there is one.

Units: bytes, seconds.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from ballonet.agent.only_agent import CONTROL_NAME
from ballonet.cli.top.rows import Piloted, Row
from ballonet.errors import BallonetError
from ballonet.host.directory import own_directory
from ballonet.vms.qmp_monitor import connected

__all__ = ["ask_autopilot", "with_autopilot"]

#: It answers at once, or not in time for this round.
_ASK_S: Final = 0.5
_QUERY: Final = "x-ballonet-query-autopilot"


async def ask_autopilot() -> Mapping[str, Piloted]:
    """Of each machine, by `kind:name`; nothing where no agent of this user runs, or answers."""
    given = os.environ.get("BALLONET_DIRECTORY")
    try:
        path = (Path(given) if given else own_directory()) / CONTROL_NAME
        if not path.is_socket():
            return {}
        async with asyncio.timeout(_ASK_S), connected(path) as monitor:
            told = await monitor.execute(_QUERY)
        return {row["vm"]: _piloted(row, is_dry_run=told["dry-run"]) for row in told["vms"]}
    except (BallonetError, TimeoutError, KeyError, TypeError):
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
