"""The commands a monitor knows, one row each: arguments, what it returns, what it does.

Source: QEMU qapi/*.json; qapi/qapi-visit-core.c for the words about arguments.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ballonet.qmp import hmp
from ballonet.qmp.errors import CommandError, NoBalloonError
from ballonet.qmp.machine import MonitoredMachine
from ballonet.qmp.qom import (
    get_property,
    list_properties,
    list_type_properties,
    set_property,
)

__all__ = ["COMMANDS", "EVENTS", "Arguments", "Command", "Parameter", "run_command"]

EVENTS: Final = (
    "BALLOON_CHANGE",
    "HV_BALLOON_STATUS_REPORT",
    "SHUTDOWN",
    "STOP",
    "RESUME",
    "x-ballonet-device-broken",
    "x-ballonet-guest-unresponsive",
    "x-ballonet-hint-lease-ended",
    "x-ballonet-out-of-puff",
    "x-ballonet-reporting",
)
_INT_MAX: Final = 2**63 - 1
#: Of a migration that says nothing, in seconds: of one that does not say how long it may be silent,
#: and the longest, after which a guest has waited for its free memory for a day.
_LEASE_S, _LEASE_S_MAX = 600, 86400
#: Runs of hinted pages in one answer, unless the client wants fewer.
_HINTED_RUNS: Final = 1024

Arguments = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One argument of a command; `type` is a type of the schema: int, str or any."""

    name: str
    type: str
    required: bool = True


@dataclass(frozen=True, slots=True)
class Command:
    """One row; `run` is given the machine whose command it is, and may have to be awaited."""

    run: Callable[[Any, Arguments], object]
    parameters: tuple[Parameter, ...] = ()
    returns: str = "empty"
    help: str = ""  #: of those that are ours alone


def run_command(command: Command, machine: object, arguments: Arguments) -> object:
    """Check the arguments of a command, and obey. Raises: CommandError."""
    _check(command.parameters, arguments)
    return command.run(machine, arguments)


def _check(parameters: tuple[Parameter, ...], arguments: Arguments) -> None:
    for parameter in parameters:
        if parameter.name not in arguments:
            if parameter.required:
                raise CommandError(f"Parameter '{parameter.name}' is missing")
            continue
        _check_type(parameter, arguments[parameter.name])
    known = {parameter.name for parameter in parameters}
    for name in arguments:
        if name not in known:
            raise CommandError(f"Parameter '{name}' is unexpected")


def _check_type(parameter: Parameter, value: object) -> None:
    if parameter.type == "int":
        is_int = isinstance(value, int) and not isinstance(value, bool)
        if not is_int or not -_INT_MAX - 1 <= int(str(value)) <= _INT_MAX:
            raise CommandError(f"Invalid parameter type for '{parameter.name}', expected: integer")
    elif parameter.type == "str" and not isinstance(value, str):
        raise CommandError(f"Invalid parameter type for '{parameter.name}', expected: string")


def _balloon(machine: MonitoredMachine, arguments: Arguments) -> object:
    if machine.ram_bytes is None:
        raise NoBalloonError
    value = _integer(arguments, "value")
    if value <= 0:
        raise CommandError(f"Parameter '{machine.version.size_parameter}' expects a size")
    return _empty(machine.set_logical_bytes(value))


def _query_balloon(machine: MonitoredMachine, _: Arguments) -> object:
    if machine.ram_bytes is None:
        raise NoBalloonError
    return {"actual": machine.logical_bytes}


def _query_hv_balloon(machine: MonitoredMachine, _: Arguments) -> object:
    reports = machine.hv_balloon
    if reports is None:
        raise CommandError("no hv-balloon device present")
    if not reports.are_enabled:
        raise CommandError("guest memory status reporting not enabled")
    if reports.committed_bytes is None:
        raise CommandError("no guest memory status report received yet")
    return {"committed": reports.committed_bytes, "available": reports.available_bytes}


def _query_status(machine: MonitoredMachine, _: Arguments) -> object:
    status = {
        "status": "running" if machine.running else "paused",
        "running": machine.running,
    }
    return status | ({"singlestep": False} if machine.version.has_singlestep else {})


def _query_name(machine: MonitoredMachine, _: Arguments) -> object:
    return {} if machine.name is None else {"name": machine.name}


def _query_memory_size(machine: MonitoredMachine, _: Arguments) -> object:
    if machine.ram_bytes is None:
        raise NoBalloonError
    return {"base-memory": machine.ram_bytes, "plugged-memory": 0}


def _list_device_properties(_: MonitoredMachine, arguments: Arguments) -> object:
    return list_type_properties(_text(arguments, "typename"))


def _stop(machine: MonitoredMachine, _: Arguments) -> object:
    return _empty(machine.stop())


def _cont(machine: MonitoredMachine, _: Arguments) -> object:
    return _empty(machine.cont())


def _quit(machine: MonitoredMachine, _: Arguments) -> object:
    machine.quit()
    return {}


def _expedite(machine: MonitoredMachine, _: Arguments) -> object:
    return _empty(machine.expedite())


def _begin_hints(machine: MonitoredMachine, arguments: Arguments) -> object:
    lease_s = _within(arguments, "lease", _LEASE_S, _LEASE_S_MAX)

    async def begin() -> object:
        return {"id": await machine.hints.begin(lease_s)}

    return begin()


def _take_hints(machine: MonitoredMachine, arguments: Arguments) -> object:
    runs_max = _within(arguments, "runs", _HINTED_RUNS, _HINTED_RUNS)
    return machine.hints.take(_integer(arguments, "id"), runs_max)


def _stop_hints(machine: MonitoredMachine, arguments: Arguments) -> object:
    return _empty(machine.hints.stop(_within(arguments, "lease", _LEASE_S, _LEASE_S_MAX)))


def _finish_hints(machine: MonitoredMachine, _: Arguments) -> object:
    return _empty(machine.hints.finish())


def _qom_list(machine: MonitoredMachine, arguments: Arguments) -> object:
    return list_properties(machine, _text(arguments, "path"))


def _qom_get(machine: MonitoredMachine, arguments: Arguments) -> object:
    return get_property(machine, _text(arguments, "path"), _text(arguments, "property"))


def _qom_set(machine: MonitoredMachine, arguments: Arguments) -> object:
    path, name = _text(arguments, "path"), _text(arguments, "property")
    return _empty(set_property(machine, path, name, arguments["value"]))


def _human(machine: MonitoredMachine, arguments: Arguments) -> object:
    return hmp.run_line(machine, _text(arguments, "command-line"))


def _query_commands(_: MonitoredMachine, __: Arguments) -> object:
    return [{"name": name} for name in (*COMMANDS, "qmp_capabilities")]


def _query_events(_: MonitoredMachine, __: Arguments) -> object:
    return [{"name": name} for name in EVENTS]


def _query_schema(machine: MonitoredMachine, _: Arguments) -> object:
    from ballonet.qmp.schema import schema  # noqa: PLC0415 - it is made from this table

    return schema(machine.version)


async def _empty(done: Awaitable[None]) -> object:
    """What a command returns that only does something."""
    await done
    return {}


def _text(arguments: Arguments, name: str) -> str:
    return str(arguments[name])


def _integer(arguments: Arguments, name: str) -> int:
    value = arguments[name]
    assert isinstance(value, int)  # noqa: S101 - checked against the parameter's type
    return value


def _within(arguments: Arguments, name: str, default: int, most: int) -> int:
    """A number that need not be given. Raises: CommandError."""
    if name not in arguments:
        return default
    value = _integer(arguments, name)
    if not 1 <= value <= most:
        raise CommandError(f"Parameter '{name}' expects a value from 1 to {most}")
    return value


_LEASE: Final = Parameter("lease", "int", required=False)
_PATH, _PROPERTY = Parameter("path", "str"), Parameter("property", "str")
COMMANDS: Final[Mapping[str, Command]] = {
    "balloon": Command(_balloon, (Parameter("value", "int"),)),
    "query-balloon": Command(_query_balloon, returns="BalloonInfo"),
    "query-hv-balloon-status-report": Command(_query_hv_balloon, returns="HvBalloonInfo"),
    "qom-list": Command(_qom_list, (_PATH,), "[ObjectPropertyInfo]"),
    "qom-get": Command(_qom_get, (_PATH, _PROPERTY), "any"),
    "qom-set": Command(_qom_set, (_PATH, _PROPERTY, Parameter("value", "any"))),
    "device-list-properties": Command(
        _list_device_properties, (Parameter("typename", "str"),), "[ObjectPropertyInfo]"
    ),
    "query-memory-size-summary": Command(_query_memory_size, returns="MemoryInfo"),
    "query-name": Command(_query_name, returns="NameInfo"),
    "query-version": Command(lambda machine, _: machine.version.info(), returns="VersionInfo"),
    "query-commands": Command(_query_commands, returns="[NamedInfo]"),
    "query-events": Command(_query_events, returns="[NamedInfo]"),
    "query-qmp-schema": Command(_query_schema, returns="[SchemaInfo]"),
    "query-status": Command(_query_status, returns="StatusInfo"),
    "stop": Command(_stop),
    "cont": Command(_cont),
    "quit": Command(_quit),
    "human-monitor-command": Command(
        _human,
        (Parameter("command-line", "str"), Parameter("cpu-index", "int", required=False)),
        "str",
    ),
    "x-ballonet-begin-hints": Command(
        _begin_hints,
        (_LEASE,),
        "any",
        "ask the guest for free page hints, right after the dirty log was read and armed; returns "
        "the `id` of the round. Before `lease` seconds (600) are over something is to be begun or "
        "stopped, or the guest is given its pages back",
    ),
    "x-ballonet-expedite": Command(
        _expedite, help="drop at once what is in the balloon and waits for a quiet moment"
    ),
    "x-ballonet-finish-hints": Command(
        _finish_hints, help="the migration is over, however: the guest is given its pages back"
    ),
    "x-ballonet-info": Command(
        lambda machine, _: machine.info(), returns="any", help="everything that is known; see above"
    ),
    "x-ballonet-stop-hints": Command(
        _stop_hints,
        (_LEASE,),
        help="end the round: when this is answered no hint of it comes any more. Its hints can "
        "still be taken, and hold until the dirty log is read again",
    ),
    "x-ballonet-take-hints": Command(
        _take_hints,
        (Parameter("id", "int"), Parameter("runs", "int", required=False)),
        "any",
        "hints of the present round that were not taken yet, the lowest first: `runs` of first "
        "page and count, in pages of 4 KiB, at most as many as asked for (1024); `more`: there are "
        "more at once; `state` of the round. Another round than the present is refused",
    ),
}
