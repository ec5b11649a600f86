"""One client of the monitor: bytes in, bytes out.

Theory of operation.  The server greets; the client must send qmp_capabilities before any other
command, and hears no event until then.  Every command is answered in order, with its `id` if it
had one; what is no command is answered with an error and changes nothing.  A command that takes
time returns an awaitable; the next one is obeyed when it has been answered.
Not here: sockets (server.py), what commands do (commands.py).
Source: QEMU docs/interop/qmp-spec.rst, monitor/qmp.c, qapi/qmp-dispatch.c.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping

from ballonet.errors import BallonetError
from ballonet.qmp.commands import COMMANDS, Command, run_command
from ballonet.qmp.errors import CommandError, CommandNotFoundError
from ballonet.qmp.json_stream import JsonError, JsonStream
from ballonet.qmp.limiter import Event
from ballonet.qmp.version import NEWEST, QemuVersion

__all__ = ["Reply", "ServerSession", "encode", "encode_event"]

#: An answer, or what has to be awaited for it.
Reply = bytes | Awaitable[bytes]


def _ignore(_: Exception) -> None:
    """For sessions nobody listens to."""


class ServerSession:
    """The protocol's state for one client."""

    def __init__(
        self,
        machine: object,
        commands: Mapping[str, Command] = COMMANDS,
        bug: Callable[[Exception], None] = _ignore,
        version: QemuVersion = NEWEST,
    ) -> None:
        """`commands`: those of the kind of machine it is; `bug` hears of what no command raises."""
        self._machine, self._commands, self._bug, self._version = machine, commands, bug, version
        self._stream = JsonStream()
        self.negotiated = False
        self._has_oob = False

    def greeting(self) -> bytes:
        """What the client reads first."""
        return encode({"QMP": {"version": self._version.info(), "capabilities": ["oob"]}})

    def feed(self, data: bytes) -> Iterator[Reply]:
        """Obey every command that is complete now, each when the answer before it was taken."""
        for value in self._stream.feed(data):
            yield self._answer(value)

    def event(self, event: Event) -> bytes | None:
        """What this client is told of an event; None before negotiation."""
        return encode_event(event) if self.negotiated else None

    def _answer(self, value: object | JsonError) -> Reply:
        try:
            result = self._execute(_command_of(value, allow_oob=self._has_oob))
            if isinstance(result, Awaitable):
                return self._answer_later(value, result)
            return _success(value, result)
        except Exception as error:
            return self._refusal(value, error)

    async def _answer_later(self, value: object, result: Awaitable[object]) -> bytes:
        try:
            return _success(value, await result)
        except Exception as error:
            return self._refusal(value, error)

    def _refusal(self, value: object | JsonError, error: Exception) -> bytes:
        """An error reply, whatever went wrong: the session goes on."""
        match error:
            case CommandError():
                refused = error
            case BallonetError():
                refused = CommandError(str(error))
            case TimeoutError():
                refused = CommandError("The device does not answer")
            case _:
                self._bug(error)
                refused = CommandError(f"This is a bug in ballonet: {type(error).__name__}")
        return encode(_id_of(value) | {"error": {"class": refused.qmp_class, "desc": refused.desc}})

    def _execute(self, command: dict[str, object]) -> object:
        is_oob = "exec-oob" in command
        name = str(command["exec-oob" if is_oob else "execute"])
        arguments = command.get("arguments", {})
        assert isinstance(arguments, dict)  # noqa: S101 - `_command_of` has seen to it
        is_capabilities = name == "qmp_capabilities"
        if not self.negotiated and not is_capabilities:
            raise CommandNotFoundError("Expecting capabilities negotiation with 'qmp_capabilities'")
        if name not in self._commands and not is_capabilities:
            raise CommandNotFoundError(f"The command {name} has not been found")
        if is_oob:  # in QEMU those that help a migration that is stuck
            raise CommandError(f"The command {name} does not support OOB")
        if is_capabilities:
            return self._negotiate(arguments)
        return run_command(self._commands[name], self._machine, arguments)

    def _negotiate(self, arguments: dict[str, object]) -> object:
        if self.negotiated:
            raise CommandNotFoundError(
                "Capabilities negotiation is already complete, command ignored"
            )
        for name in arguments:
            if name != "enable":
                raise CommandError(f"Parameter '{name}' is unexpected")
        enable = arguments.get("enable", [])
        if not isinstance(enable, list):
            raise CommandError("Invalid parameter type for 'enable', expected: array")
        for number, capability in enumerate(enable):
            if not isinstance(capability, str):
                raise CommandError(
                    f"Invalid parameter type for 'enable[{number}]', expected: string"
                )
            if capability != "oob":
                raise CommandError(f"Parameter 'null' does not accept value '{capability}'")
        self._has_oob = "oob" in enable
        self.negotiated = True
        return {}


def encode(message: dict[str, object]) -> bytes:
    """One message as it goes over the wire."""
    return json.dumps(message, allow_nan=False).encode() + b"\r\n"


def encode_event(event: Event) -> bytes:
    """One event as it goes over the wire."""
    seconds, rest_ns = divmod(event.wall_ns, 1_000_000_000)
    stamp = {"seconds": seconds, "microseconds": rest_ns // 1000}
    message: dict[str, object] = {"timestamp": stamp, "event": event.name}
    if event.data:
        message["data"] = event.data
    return encode(message)


def _success(value: object, result: object) -> bytes:
    return encode({"return": result} | _id_of(value))


def _id_of(value: object | JsonError) -> dict[str, object]:
    return {"id": value["id"]} if isinstance(value, dict) and "id" in value else {}


def _command_of(value: object | JsonError, *, allow_oob: bool) -> dict[str, object]:
    """The command in a value. Raises: CommandError."""
    if isinstance(value, JsonError):
        raise CommandError(str(value))
    if not isinstance(value, dict):
        raise CommandError("QMP input must be a JSON object")
    commands = ("execute", "exec-oob") if allow_oob else ("execute",)
    for name, member in value.items():
        _check_member(name, member, commands)
    found = [name for name in value if name in commands]
    if not found:
        raise CommandError("QMP input lacks member 'execute'")
    if len(found) > 1:
        raise CommandError(f"QMP input member '{found[1]}' clashes with '{found[0]}'")
    return value


def _check_member(name: str, member: object, commands: tuple[str, ...]) -> None:
    if name in commands:
        if not isinstance(member, str):
            raise CommandError(f"QMP input member '{name}' must be a string")
    elif name == "arguments":
        if not isinstance(member, dict):
            raise CommandError("QMP input member 'arguments' must be an object")
    elif name != "id":
        raise CommandError(f"QMP input member '{name}' is unexpected")
