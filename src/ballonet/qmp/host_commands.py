"""The commands of a host's own monitor: which guests it has a balloon for.

Source: none; these are ours, beside what every monitor of QEMU's kind knows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final, Protocol

from ballonet.errors import BallonetError
from ballonet.qmp.commands import Arguments, Command, Parameter
from ballonet.qmp.errors import CommandError
from ballonet.qmp.version import NEWEST

__all__ = ["HOST_COMMANDS", "MEMORY_BYTES_MIN", "HostMachine"]

#: Less than this no guest has.
MEMORY_BYTES_MIN: Final = 1 << 20
#: As of QEMU's property.
_INTERVAL_S_MAX: Final = 2**32 - 1


class HostMachine(Protocol):
    """What can be asked of a host."""

    async def add_guest(self, name: str, memory_bytes: int | None) -> dict[str, object]:
        """Serve one more; returns its row. Raises: BallonetError."""
        ...

    async def remove_guest(self, name: str) -> None:
        """Serve one less; returns when all of it is gone. Raises: BallonetError."""
        ...

    async def guests(self) -> list[dict[str, object]]:
        """A row for each."""
        ...

    async def observe_guests(self) -> list[dict[str, object]]:
        """Everything that the balloon of each tells of one moment."""
        ...

    async def change_polling(
        self, interval_s: int, instead_of_s: int, names: Collection[str] | None
    ) -> list[str]:
        """Have guests asked for statistics so often, who were so often before; returns who is."""
        ...

    def quit(self) -> None:
        """End."""
        ...


async def _add(host: HostMachine, arguments: Arguments) -> object:
    memory = arguments.get("memory")
    if memory is not None and not (isinstance(memory, int) and memory >= MEMORY_BYTES_MIN):
        raise CommandError("Parameter 'memory' expects a size of 1 MiB or more")
    try:
        return await host.add_guest(str(arguments["name"]), memory)
    except BallonetError as error:
        raise CommandError(str(error)) from error


async def _remove(host: HostMachine, arguments: Arguments) -> object:
    try:
        await host.remove_guest(str(arguments["name"]))
    except BallonetError as error:
        raise CommandError(str(error)) from error
    return {}


async def _poll(host: HostMachine, arguments: Arguments) -> object:
    interval_s, instead_of_s = (_seconds(arguments, name) for name in ("interval", "instead-of"))
    return await host.change_polling(interval_s, instead_of_s, _names(arguments))


def _seconds(arguments: Arguments, name: str) -> int:
    value = arguments[name]
    if not (isinstance(value, int) and 0 <= value <= _INTERVAL_S_MAX):
        raise CommandError(f"Parameter '{name}' expects a value from 0 to {_INTERVAL_S_MAX}")
    return value


def _names(arguments: Arguments) -> list[str] | None:
    names = arguments.get("names")
    if names is None or (isinstance(names, list) and all(isinstance(one, str) for one in names)):
        return names
    raise CommandError("Invalid parameter type for 'names', expected: array of strings")


def _quit(host: HostMachine, _: Arguments) -> object:
    host.quit()
    return {}


def _query_commands(_: HostMachine, __: Arguments) -> object:
    return [{"name": name} for name in (*HOST_COMMANDS, "qmp_capabilities")]


_NAME: Final = Parameter("name", "str")
HOST_COMMANDS: Final[Mapping[str, Command]] = {
    "x-ballonet-add-guest": Command(
        _add,
        (_NAME, Parameter("memory", "int", required=False)),
        "any",
        "serve a device for one more guest; returns its row. `memory`: of the guest, in bytes; "
        "what its VMM shares, if not given",
    ),
    "x-ballonet-observe-guests": Command(
        lambda host, _: host.observe_guests(),
        returns="any",
        help="all guests in one answer. Of each `name`, `qmp` (its own monitor), `pid`, `state` "
        "(`running`, `restarting`, `ending`; `unresponsive`: it has not answered for a second), "
        "`age` (seconds since it has told this), `ram`, everything of `x-ballonet-info`, and under "
        "the names of QEMU's properties `guest-stats-polling-interval` and `guest-stats`. Null: "
        "not known; there is nothing else of one that does not answer",
    ),
    "x-ballonet-poll-guests": Command(
        _poll,
        (
            Parameter("interval", "int"),
            Parameter("instead-of", "int"),
            Parameter("names", "any", required=False),
        ),
        "any",
        "ask guests for statistics every `interval` seconds, 0: no more; all, or those of `names`, "
        "but only those that are asked every `instead-of` seconds until now. Returns the names of "
        "those that are asked every `interval` seconds now",
    ),
    "x-ballonet-query-guests": Command(
        lambda host, _: host.guests(), returns="any", help="a short row for each guest"
    ),
    "x-ballonet-remove-guest": Command(
        _remove, (_NAME,), help="hang up on a guest's VMM, and forget the guest"
    ),
    "query-version": Command(lambda _, __: NEWEST.info(), returns="VersionInfo"),
    "query-commands": Command(_query_commands, returns="[NamedInfo]"),
    "quit": Command(_quit),
}
