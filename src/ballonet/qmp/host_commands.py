"""The commands of a host's own monitor: which guests it has a balloon for.

Source: none; these are ours, beside what every monitor of QEMU's kind knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

from ballonet.errors import BallonetError
from ballonet.qmp.commands import Arguments, Command, Parameter
from ballonet.qmp.errors import CommandError
from ballonet.qmp.version import NEWEST

__all__ = ["HOST_COMMANDS", "MEMORY_BYTES_MIN", "HostMachine"]

#: Less than this no guest has.
MEMORY_BYTES_MIN: Final = 1 << 20


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


def _quit(host: HostMachine, _: Arguments) -> object:
    host.quit()
    return {}


def _query_commands(_: HostMachine, __: Arguments) -> object:
    return [{"name": name} for name in (*HOST_COMMANDS, "qmp_capabilities")]


_NAME: Final = Parameter("name", "str")
HOST_COMMANDS: Final[Mapping[str, Command]] = {
    "x-ballonet-add-guest": Command(_add, (_NAME, Parameter("memory", "int", required=False))),
    "x-ballonet-remove-guest": Command(_remove, (_NAME,)),
    "x-ballonet-query-guests": Command(lambda host, _: host.guests(), returns="any"),
    "query-version": Command(lambda _, __: NEWEST.info(), returns="VersionInfo"),
    "query-commands": Command(_query_commands, returns="[NamedInfo]"),
    "quit": Command(_quit),
}
