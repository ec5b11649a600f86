"""The object tree as far as a balloon needs it: where `guest-stats` is found.

    /machine/peripheral/<id>              the balloon, under the name it was given
    /machine/peripheral-anon/device[0]    the same balloon, as tools look for one without a name

Source: QEMU qom/qom-qmp-cmds.c, hw/virtio/virtio-balloon.c.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from ballonet.qmp.errors import CommandError, DeviceNotFoundError
from ballonet.qmp.machine import MonitoredMachine
from ballonet.virtio.features import FEATURES
from ballonet.virtio.stats import STATS, UNSET

__all__ = [
    "balloon_paths",
    "get_property",
    "list_properties",
    "list_type_properties",
    "set_property",
]

TYPE_NAME: Final = "virtio-balloon-pci"  #: of the only type that can be asked about by name
_INTERVAL: Final = "guest-stats-polling-interval"


class _Property(NamedTuple):
    """One property of the balloon."""

    type: str
    read: Callable[[MonitoredMachine], object]
    write: Callable[[MonitoredMachine, object], Awaitable[None]] | None = None


def balloon_paths(machine: MonitoredMachine) -> tuple[str, str]:
    """Both paths of the balloon."""
    return f"/machine/peripheral/{machine.balloon_id}", "/machine/peripheral-anon/device[0]"


def list_properties(machine: MonitoredMachine, path: str) -> list[dict[str, object]]:
    """What `qom-list` shows. Raises: CommandError."""
    normal = _resolve(machine, path)
    if normal in balloon_paths(machine):
        return [{"name": name, "type": prop.type} for name, prop in _PROPERTIES.items()]
    return [{"name": "type", "type": "string"}, *_tree(machine)[normal]]


def list_type_properties(typename: str) -> list[dict[str, object]]:
    """What `device-list-properties` shows of the balloon's type. Raises: CommandError.

    Without QEMU's default values: ours may be others.
    """
    if typename != TYPE_NAME:
        raise DeviceNotFoundError(f"Device '{typename}' not found")
    rows: list[dict[str, object]] = [
        {"name": name, "type": prop.type} for name, prop in _PROPERTIES.items() if name != "type"
    ]
    return rows + [{"name": name, "type": "bool", "description": "on/off"} for name in _SWITCHES]


def get_property(machine: MonitoredMachine, path: str, name: str) -> object:
    """What `qom-get` shows. Raises: CommandError."""
    return _find(machine, path, name).read(machine)


def set_property(machine: MonitoredMachine, path: str, name: str, value: object) -> Awaitable[None]:
    """What `qom-set` does. Raises: CommandError."""
    prop = _find(machine, path, name)
    if prop.write is None:
        owner = "virtio-balloon-device" if name == "guest-stats" else machine.balloon_type
        raise CommandError(f"Property '{owner}.{name}' is not writable")
    return prop.write(machine, value)


def _find(machine: MonitoredMachine, path: str, name: str) -> _Property:
    is_balloon = _resolve(machine, path) in balloon_paths(machine)
    owner, known = "container", _OF_CONTAINERS
    if is_balloon:
        owner, known = machine.balloon_type, _PROPERTIES
    if name not in known:
        raise CommandError(f"Property '{owner}.{name}' not found")
    return known[name]


def _tree(machine: MonitoredMachine) -> dict[str, list[dict[str, object]]]:
    """Children of every object above the balloon."""
    child = f"child<{machine.balloon_type}>"
    return {
        "/": [{"name": "machine", "type": "child<machine>"}],
        "/machine": [
            {"name": "peripheral", "type": "child<container>"},
            {"name": "peripheral-anon", "type": "child<container>"},
        ],
        "/machine/peripheral": [{"name": machine.balloon_id, "type": child}],
        "/machine/peripheral-anon": [{"name": "device[0]", "type": child}],
    }


def _resolve(machine: MonitoredMachine, path: str) -> str:
    """The whole path of an object, of which the last part may be enough. Raises: CommandError."""
    known = {*balloon_paths(machine), *_tree(machine)}
    normal = path.rstrip("/") or "/"
    if not path:
        raise CommandError("Path '' is ambiguous")
    found = [one for one in known if one == normal or one.endswith(f"/{normal}")]
    if len(found) != 1:
        raise DeviceNotFoundError(f"Device '{path}' not found")
    return found[0]


def _guest_stats(machine: MonitoredMachine) -> dict[str, object]:
    values = machine.stats
    stats = {row.qemu_key: values.get(row.name, UNSET) for row in STATS}
    return {"stats": stats, "last-update": machine.stats_last_update_s}


def _set_interval(machine: MonitoredMachine, value: object) -> Awaitable[None]:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 1 << 63:
        raise CommandError(f"Invalid parameter type for '{_INTERVAL}', expected: integer")
    if value < 0:
        raise CommandError("timer value must be greater than zero")
    if value > 0xFFFF_FFFF:
        raise CommandError("timer value is too big")
    return machine.set_poll_interval(value)


#: What the device offers is settled when it starts.
_SWITCHES: Final = tuple(row.option for row in FEATURES if row.in_qemu)
_OF_CONTAINERS: Final = {"type": _Property("string", lambda _: "container")}
_PROPERTIES: Final = {
    "type": _Property("string", lambda machine: machine.balloon_type),
    "guest-stats": _Property("guest statistics", _guest_stats),
    _INTERVAL: _Property("int", lambda machine: machine.poll_interval_s, _set_interval),
}
