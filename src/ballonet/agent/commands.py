"""Every command of the agent's own monitor.

Null is unknown.  Units: bytes, seconds of the time of day.
Source: none but for `query-version` and `query-commands`, which every monitor of QEMU's kind knows.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final

from ballonet.agent.autopilot.commands import AUTOPILOT_COMMANDS
from ballonet.agent.past import KEYS, Past
from ballonet.qmp.commands import Arguments, Command, Parameter
from ballonet.qmp.errors import CommandError
from ballonet.qmp.version import NEWEST

__all__ = ["HISTORY_COMMAND", "agent_commands"]

HISTORY_COMMAND: Final = "x-ballonet-query-history"
_SECONDS_MOST: Final = 7 * 86400


def agent_commands(past: Past) -> Mapping[str, Command]:
    """By name; the machine that they are run with is the autopilot."""
    commands = {
        **AUTOPILOT_COMMANDS,
        HISTORY_COMMAND: Command(
            lambda _, arguments: _history(past, arguments),
            (Parameter("seconds", "int"), Parameter("vm", "str", required=False)),
            "any",
            "what is known of the last `seconds`, of every machine or of one",
        ),
        "query-version": Command(lambda _, __: NEWEST.info(), returns="VersionInfo"),
    }
    names = [{"name": name} for name in (*commands, "query-commands", "qmp_capabilities")]
    return {**commands, "query-commands": Command(lambda _, __: names, returns="[NamedInfo]")}


def _history(past: Past, arguments: Arguments) -> object:
    seconds = arguments["seconds"]
    if not (isinstance(seconds, int) and 1 <= seconds <= _SECONDS_MOST):
        raise CommandError(f"Parameter 'seconds' expects a value from 1 to {_SECONDS_MOST}")
    vm = arguments.get("vm")
    wanted = None if vm is None else frozenset({str(vm)})
    return {"keys": list(KEYS), "vms": past.of(wanted, time.time() - seconds)}
