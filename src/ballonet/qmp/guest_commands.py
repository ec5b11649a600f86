"""The commands of the monitor of a guest that can move, under QEMU's names.

Whoever can migrate a QEMU by QMP can migrate our embedded guest.  What QEMU does not have is an
`x-ballonet-` parameter or capability beside its own.
Source: QEMU qapi/migration.json, qapi/run-state.json.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from ballonet.errors import BallonetError
from ballonet.qmp.commands import Arguments, Command, Parameter
from ballonet.qmp.errors import CommandError
from ballonet.qmp.version import NEWEST

__all__ = [
    "CAPABILITIES",
    "GUEST_COMMANDS",
    "GUEST_EVENTS",
    "PARAMETERS",
    "MigratingMachine",
    "MigrationParameter",
]

_CALC_TIME_MAX: Final = 60
GUEST_EVENTS: Final = ("MIGRATION", "MIGRATION_PASS", "SHUTDOWN", "STOP", "RESUME")


@dataclass(frozen=True, slots=True)
class MigrationParameter:
    """One number that a migration can be given."""

    name: str
    default: int
    most: int
    help: str


#: Of `migrate-set-parameters`.
PARAMETERS: Final = (
    MigrationParameter("downtime-limit", 300, 2_000_000, "milliseconds the guest may stand still"),
    MigrationParameter("max-bandwidth", 0, 2**63 - 1, "bytes a second; 0: no limit"),
    MigrationParameter(
        "max-postcopy-bandwidth",
        0,
        2**63 - 1,
        "bytes a second for what nobody waits for; 0: no limit",
    ),
    MigrationParameter("x-ballonet-timeout", 0, 2**31, "milliseconds before the stop; 0: no limit"),
    MigrationParameter("x-ballonet-force", 0, 1, "1: stop the guest then; 0: give up"),
    MigrationParameter("x-ballonet-head-start", 100, 60_000, "milliseconds to hear what is free"),
)
#: Of `migrate-set-capabilities`, and whether they are on.
CAPABILITIES: Final[Mapping[str, bool]] = {
    "auto-converge": False,
    "postcopy-ram": False,
    "events": False,
    "x-ballonet-hints": True,
    "x-ballonet-checksums": True,
    "x-ballonet-verify": False,
}


class MigratingMachine(Protocol):
    """A guest with what runs it."""

    @property
    def run_state(self) -> str:
        """One of QEMU's RunState: running, paused, inmigrate, finish-migrate, postmigrate."""
        ...

    @property
    def parameters(self) -> Mapping[str, int]:
        """Those of `PARAMETERS`."""
        ...

    @property
    def capabilities(self) -> Mapping[str, bool]:
        """Those of `CAPABILITIES`."""
        ...

    def set_parameters(self, values: Mapping[str, int]) -> None:
        """For the next migration; the values were checked."""
        ...

    def set_capabilities(self, values: Mapping[str, bool]) -> None:
        """The same. Raises: BallonetError, while one is under way."""
        ...

    def migrate(self, uri: str, *, resume: bool) -> Awaitable[None]:
        """Begin; `resume`: go on after the channel broke. Raises: BallonetError."""
        ...

    def cancel_migration(self) -> Awaitable[None]:
        """Let the guest stay, if it has not left."""
        ...

    def start_postcopy(self) -> Awaitable[None]:
        """Let it go on at the destination before all is there. Raises: BallonetError."""
        ...

    def migration(self) -> dict[str, object]:
        """What `query-migrate` answers."""
        ...

    def begin_dirty_rate(self, seconds: int) -> Awaitable[None]:
        """Watch for so long how much it writes. Raises: BallonetError."""
        ...

    def dirty_rate(self) -> dict[str, object]:
        """What `query-dirty-rate` answers."""
        ...

    def stop(self) -> Awaitable[None]:
        """Let the guest stand still."""
        ...

    def cont(self) -> Awaitable[None]:
        """Let it go on. Raises: BallonetError, if it has moved."""
        ...

    def quit(self) -> None:
        """Switch it off."""
        ...


def _query_status(machine: MigratingMachine, _: Arguments) -> object:
    return {"status": machine.run_state, "running": machine.run_state == "running"}


async def _migrate(machine: MigratingMachine, arguments: Arguments) -> object:
    resume = arguments.get("resume", False)
    if not isinstance(resume, bool):
        raise CommandError("Invalid parameter type for 'resume', expected: boolean")
    return await _told(machine.migrate(str(arguments["uri"]), resume=resume))


async def _told(done: Awaitable[None]) -> object:
    try:
        await done
    except BallonetError as error:
        raise CommandError(str(error)) from error
    return {}


def _set_parameters(machine: MigratingMachine, arguments: Arguments) -> object:
    limits = {row.name: row.most for row in PARAMETERS}
    values: dict[str, int] = {}
    for name, value in arguments.items():
        number = int(str(value))  # its type was checked
        if not 0 <= number <= limits[name]:
            raise CommandError(
                f"Parameter '{name}' expects an integer in the range of 0 to {limits[name]}"
            )
        values[name] = number
    machine.set_parameters(values)
    return {}


def _set_capabilities(machine: MigratingMachine, arguments: Arguments) -> object:
    rows = arguments["capabilities"]
    if not isinstance(rows, list):
        raise CommandError("Invalid parameter type for 'capabilities', expected: array")
    values: dict[str, bool] = {}
    for row in rows:
        if not isinstance(row, dict) or set(row) != {"capability", "state"}:
            raise CommandError("Parameter 'capabilities' expects 'capability' and 'state' of each")
        name, state = row["capability"], row["state"]
        if not isinstance(name, str) or name not in CAPABILITIES:
            raise CommandError(f"Parameter 'capability' does not accept value '{name}'")
        if not isinstance(state, bool):
            raise CommandError("Invalid parameter type for 'state', expected: boolean")
        values[name] = state
    try:
        machine.set_capabilities(values)
    except BallonetError as error:
        raise CommandError(str(error)) from error
    return {}


def _query_capabilities(machine: MigratingMachine, _: Arguments) -> object:
    return [{"capability": name, "state": on} for name, on in machine.capabilities.items()]


async def _calc_dirty_rate(machine: MigratingMachine, arguments: Arguments) -> object:
    seconds = int(str(arguments["calc-time"]))  # its type was checked
    if not 1 <= seconds <= _CALC_TIME_MAX:
        raise CommandError(f"calc-time is out of range[1, {_CALC_TIME_MAX}].")
    return await _told(machine.begin_dirty_rate(seconds))


def _quit(machine: MigratingMachine, _: Arguments) -> object:
    machine.quit()
    return {}


def _query_commands(_: MigratingMachine, __: Arguments) -> object:
    return [{"name": name} for name in (*GUEST_COMMANDS, "qmp_capabilities")]


def _query_events(_: MigratingMachine, __: Arguments) -> object:
    return [{"name": name} for name in GUEST_EVENTS]


GUEST_COMMANDS: Final[Mapping[str, Command]] = {
    "query-status": Command(_query_status, returns="StatusInfo"),
    "stop": Command(lambda machine, _: _told(machine.stop())),
    "cont": Command(lambda machine, _: _told(machine.cont())),
    "quit": Command(_quit),
    "migrate": Command(
        _migrate, (Parameter("uri", "str"), Parameter("resume", "any", required=False))
    ),
    "migrate_cancel": Command(lambda machine, _: _told(machine.cancel_migration())),
    "migrate-start-postcopy": Command(lambda machine, _: _told(machine.start_postcopy())),
    "query-migrate": Command(lambda machine, _: machine.migration(), returns="any"),
    "migrate-set-parameters": Command(
        _set_parameters, tuple(Parameter(row.name, "int", required=False) for row in PARAMETERS)
    ),
    "query-migrate-parameters": Command(lambda machine, _: dict(machine.parameters), returns="any"),
    "migrate-set-capabilities": Command(_set_capabilities, (Parameter("capabilities", "any"),)),
    "query-migrate-capabilities": Command(_query_capabilities, returns="any"),
    "calc-dirty-rate": Command(_calc_dirty_rate, (Parameter("calc-time", "int"),)),
    "query-dirty-rate": Command(lambda machine, _: machine.dirty_rate(), returns="any"),
    "query-version": Command(lambda _, __: NEWEST.info(), returns="VersionInfo"),
    "query-commands": Command(_query_commands, returns="[NamedInfo]"),
    "query-events": Command(_query_events, returns="[NamedInfo]"),
}
