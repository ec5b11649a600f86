"""HMP: the monitor's commands for people, one line each.

Source: QEMU hmp-commands.hx, hw/core/machine-hmp-cmds.c.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from ballonet.qmp.errors import CommandError, NoBalloonError
from ballonet.qmp.machine import Machine
from ballonet.units import format_bytes
from ballonet.virtio.stats import STATS, StatUnit

__all__ = ["HMP_COMMANDS", "INFO_COMMANDS", "run_line"]

_MIB: Final = 1 << 20
_SIZE_MAX: Final = 2**63 - 1
_NUMBER: Final = re.compile(r"-?\d+", re.ASCII)


class HmpCommand(NamedTuple):
    """One row: what it does with the rest of the line, and its line of help."""

    run: Callable[[Machine, str], str]
    arguments: str
    help: str
    alias: str = ""


def run_line(machine: Machine, line: str) -> str:
    """Obey one line; returns what is printed, errors too."""
    name, _, rest = line.strip().partition(" ")
    if not name:
        return ""
    command = _find(name)
    if command is None:
        return f"unknown command: '{name}'\r\n"
    try:
        return command.run(machine, rest.strip())
    except CommandError as error:
        return f"Error: {error.desc}\r\n"


def _find(name: str) -> HmpCommand | None:
    for key, row in HMP_COMMANDS.items():
        if name in (key, row.alias):
            return row
    return None


def _balloon(machine: Machine, rest: str) -> str:
    found = _NUMBER.match(rest)
    if not rest or found is None:
        wrong = (
            f"invalid char '{rest[0]}' in expression" if rest else "unexpected end of expression"
        )
        return _complaint(wrong, "balloon")
    if rest[found.end() :].strip():
        return _complaint("balloon: extraneous characters at the end of line", "balloon")
    if found[0].startswith("-"):
        return _complaint("enter a positive value", "balloon")
    if machine.ram_bytes is None:
        raise NoBalloonError
    size = int(found[0]) * _MIB
    if not 0 < size <= _SIZE_MAX:
        raise CommandError("Parameter 'target' expects a size")
    machine.set_logical_bytes(size)
    return ""


def _complaint(wrong: str, command: str) -> str:
    return f'{wrong}\r\nTry "help {command}" for more information\r\n'


def _info(machine: Machine, rest: str) -> str:
    name, _, more = rest.partition(" ")
    if not name:
        return "".join(f"info {key}  -- {row.help}\r\n" for key, row in INFO_COMMANDS.items())
    command = INFO_COMMANDS.get(name)
    if command is None:
        return f"unknown command: 'info {name}'\r\n"
    if more.strip():
        wrong = f"{name}: extraneous characters at the end of line"
        return _complaint(wrong, f"info {name}")
    return command.run(machine, "")


def _help(_: Machine, rest: str) -> str:
    if rest.split(maxsplit=1)[:1] == ["info"]:
        return "".join(f"info {key}  -- {row.help}\r\n" for key, row in INFO_COMMANDS.items())
    lines = [
        f"{_usage(name, row)} -- {row.help}\r\n"
        for name, row in HMP_COMMANDS.items()
        if not rest or rest in (name, row.alias)
    ]
    return "".join(lines) or f"unknown command: '{rest}'\r\n"


def _usage(name: str, row: HmpCommand) -> str:
    names = f"{name}|{row.alias}" if row.alias else name
    return f"{names} {row.arguments}".rstrip()


def _stop(machine: Machine, _: str) -> str:
    machine.stop()
    return ""


def _cont(machine: Machine, _: str) -> str:
    machine.cont()
    return ""


def _quit(machine: Machine, _: str) -> str:
    machine.quit()
    return ""


def _info_balloon(machine: Machine, _: str) -> str:
    if machine.ram_bytes is None:
        raise NoBalloonError
    return f"balloon: actual={machine.logical_bytes // _MIB}\r\n"


def _info_status(machine: Machine, _: str) -> str:
    return f"VM status: {'running' if machine.running else 'paused'}\r\n"


def _info_version(_: Machine, __: str) -> str:
    return "7.2.0ballonet\r\n"


def _info_stats(machine: Machine, _: str) -> str:
    values = machine.stats
    lines = []
    for row in STATS:
        if row.name in values:
            value = values[row.name]
            shown = format_bytes(value) if row.unit is StatUnit.BYTES else str(value)
            lines.append(f"{row.name}: {shown}\r\n")
    return "".join(lines) or "no statistics\r\n"


INFO_COMMANDS: Final[Mapping[str, HmpCommand]] = {
    "balloon": HmpCommand(_info_balloon, "", "show balloon information"),
    "stats": HmpCommand(_info_stats, "", "show the guest's memory statistics"),
    "status": HmpCommand(_info_status, "", "show the current VM status (running|paused)"),
    "version": HmpCommand(_info_version, "", "show the version of QEMU"),
}
HMP_COMMANDS: Final[Mapping[str, HmpCommand]] = {
    "balloon": HmpCommand(_balloon, "target", "request VM to change its memory allocation (in MB)"),
    "cont": HmpCommand(_cont, "", "resume emulation", "c"),
    "help": HmpCommand(_help, "[cmd]", "show the help", "?"),
    "info": HmpCommand(_info, "[subcommand]", "show various information about the system state"),
    "quit": HmpCommand(_quit, "", "quit the emulator", "q"),
    "stop": HmpCommand(_stop, "", "stop emulation", "s"),
}
