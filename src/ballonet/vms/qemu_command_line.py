"""What a QEMU's command line says of it: its name, its memory, its monitors.

Source: qemu(1); QEMU util/qemu-option.c: `,,` is a comma, options have one dash or two.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ballonet.vms.command_line import following

__all__ = ["MonitorPlace", "QemuCommandLine", "is_qemu", "parse_qemu_command_line"]

_NAMES: Final = frozenset({"qemu-kvm", "kvm"})
_SIZE: Final = re.compile(r"(\d+)([KMGTkmgt]?)[bB]?", re.ASCII)
#: `-m` counts MiB where no unit stands.
_UNITS: Final = {"": 20, "k": 10, "m": 20, "g": 30, "t": 40}
_QMP_OPTIONS: Final = ("qmp", "qmp-pretty")


@dataclass(frozen=True, slots=True)
class MonitorPlace:
    """Where a QMP monitor is, or why it cannot be connected to."""

    path: str = ""  #: of its socket, as QEMU means it
    fd: int | None = None  #: QEMU was given its socket under this number
    why_not: str = ""


@dataclass(frozen=True, slots=True)
class QemuCommandLine:
    """What is of interest; None or empty: it says nothing of it."""

    name: str
    memory_bytes: int | None  #: None also where more can be plugged in
    monitors: tuple[MonitorPlace, ...]


def is_qemu(program: str) -> bool:
    """Whether a program of this name is one that emulates a machine."""
    return program.startswith("qemu-system-") or program in _NAMES


def parse_qemu_command_line(arguments: Sequence[str]) -> QemuCommandLine:
    """Read the arguments, without the program; what makes no sense is left out."""
    name, memory_bytes = "", None
    chardevs: dict[str, Mapping[str, str]] = {}
    places: list[MonitorPlace] = []
    controls: list[str] = []
    for option, value in _options(arguments):
        if option == "name":
            name = _keyed(value, "guest").get("guest", "")
        elif option == "m":
            memory_bytes = _memory_bytes(_keyed(value, "size"))
        elif option in _QMP_OPTIONS:
            places.append(_place_of_address(value))
        elif option == "chardev":
            row = _keyed(value, "backend")
            chardevs[row.get("id", "")] = row
        elif option == "mon":
            row = _keyed(value, "chardev")
            if row.get("mode") == "control":
                controls.append(row.get("chardev", ""))
    places += [_place_of_chardev(chardevs.get(one, {})) for one in controls]
    return QemuCommandLine(name, memory_bytes, tuple(places))


def _options(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    for argument, value in following(arguments):
        if argument.startswith("-"):
            yield argument.lstrip("-"), value


def _keyed(text: str, first: str) -> dict[str, str]:
    """`a=b,c` as a mapping; `first` is the key that may be left out at the beginning."""
    found: dict[str, str] = {}
    for index, part in enumerate(text.replace(",,", "\0").split(",")):
        key, equals, value = part.replace("\0", ",").partition("=")
        if equals:
            found[key] = value
        elif index == 0:
            found[first] = key
        else:
            found[key] = "on"
    return found


def _memory_bytes(row: Mapping[str, str]) -> int | None:
    size = _SIZE.fullmatch(row.get("size", ""))
    if size is None or "maxmem" in row:
        return None
    return int(size[1]) << _UNITS[size[2].lower()]


def _place_of_address(text: str) -> MonitorPlace:
    """Of `-qmp unix:PATH,server=on`; other kinds than Unix sockets are not spoken to."""
    kind, colon, rest = text.partition(":")
    if kind == "chardev" and colon:
        return MonitorPlace(why_not=f"its monitor is at {text}")
    if kind != "unix" or not colon:
        return MonitorPlace(why_not=f"its monitor is no Unix socket: -qmp {text}")
    row = _keyed(rest, "path")
    return _served(row, row.get("path", ""))


def _place_of_chardev(row: Mapping[str, str]) -> MonitorPlace:
    if row.get("backend") != "socket" or not ("path" in row or "fd" in row):
        return MonitorPlace(why_not=f"its monitor is no Unix socket: {row.get('backend')}")
    if "fd" in row:
        return MonitorPlace(fd=int(row["fd"])) if row["fd"].isdecimal() else MonitorPlace()
    return _served(row, row["path"])


def _served(row: Mapping[str, str], path: str) -> MonitorPlace:
    """QEMU listens there, unless it was told to connect to somebody who does."""
    is_server = row.get("server") in ("on", "yes", "true") and "noserver" not in row
    if not is_server:
        return MonitorPlace(why_not=f"its monitor connects to another program at {path}")
    return MonitorPlace(path)
