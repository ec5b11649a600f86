"""What `query-qmp-schema` answers: the table of commands in QEMU's own introspection format.

Types are given numbers for names, as QEMU masks its own.
Source: QEMU qapi/introspect.json.
"""

from __future__ import annotations

from typing import Final

from ballonet.qmp.commands import COMMANDS, EVENTS, Command
from ballonet.qmp.version import QemuVersion

__all__ = ["schema"]

_Row = dict[str, object]

_OBJECTS: Final[dict[str, dict[str, str]]] = {
    "empty": {},
    "BalloonInfo": {"actual": "int"},
    "HvBalloonInfo": {"committed": "int", "available": "int"},
    "NamedInfo": {"name": "str"},
    "ObjectPropertyInfo": {"name": "str", "type": "str"},
    "StatusInfo": {"status": "str", "running": "bool"},
    "NameInfo": {"name": "str"},
    "MemoryInfo": {"base-memory": "int", "plugged-memory": "int"},
    "VersionTriple": {"major": "int", "minor": "int", "micro": "int"},
    "VersionInfo": {"qemu": "VersionTriple", "package": "str"},
    "SchemaInfo": {"name": "str", "meta-type": "str"},
    "BALLOON_CHANGE-data": {"actual": "int"},
    "SHUTDOWN-data": {"guest": "bool", "reason": "str"},
    "x-ballonet-data": {},
}
_BUILT_IN: Final = {"int": "int", "str": "string", "bool": "boolean"}
_EVENT_DATA: Final = {
    "BALLOON_CHANGE": "BALLOON_CHANGE-data",
    "HV_BALLOON_STATUS_REPORT": "HvBalloonInfo",
    "SHUTDOWN": "SHUTDOWN-data",
    "STOP": "empty",
    "RESUME": "empty",
}


def schema(version: QemuVersion) -> list[_Row]:
    """Every command, event and type."""
    objects = dict(_OBJECTS)
    if version.has_singlestep:
        objects["StatusInfo"] = {**objects["StatusInfo"], "singlestep": "bool"}
    rows: list[_Row] = [
        {"name": name, "meta-type": "builtin", "json-type": kind}
        for name, kind in _BUILT_IN.items()
    ]
    rows.append({"name": "any", "meta-type": "builtin", "json-type": "value"})
    rows += [_object(name, members) for name, members in objects.items()]
    rows += [
        {"name": f"[{name}]", "meta-type": "array", "element-type": name}
        for name in ("NamedInfo", "ObjectPropertyInfo", "SchemaInfo")
    ]
    for name, command in COMMANDS.items():
        rows += _command(name, command)
    rows += [
        {"name": name, "meta-type": "event", "arg-type": _EVENT_DATA.get(name, "x-ballonet-data")}
        for name in EVENTS
    ]
    return rows


def _object(name: str, members: dict[str, str]) -> _Row:
    rows = [{"name": member, "type": kind} for member, kind in members.items()]
    return {"name": name, "meta-type": "object", "members": rows}


def _command(name: str, command: Command) -> list[_Row]:
    argument = f"{name}-arg" if command.parameters else "empty"
    row: _Row = {
        "name": name,
        "meta-type": "command",
        "arg-type": argument,
        "ret-type": command.returns,
    }
    if not command.parameters:
        return [row]
    members: list[_Row] = [
        {"name": p.name, "type": p.type} | ({} if p.required else {"default": None})
        for p in command.parameters
    ]
    return [row, {"name": argument, "meta-type": "object", "members": members}]
