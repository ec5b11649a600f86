"""Where a migration goes to or comes from, as people write it: QEMU's forms.

unix:PATH    tcp:HOST:PORT    tcp:[ADDRESS]:PORT (IPv6)    fd:N (a socket)    file:PATH
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, TypeAlias

from ballonet.errors import SettingsError

__all__ = ["ChannelUri", "FdUri", "FileUri", "TcpUri", "UnixUri", "parse_uri"]

_ALLOWED: Final = "unix:PATH, tcp:HOST:PORT, fd:N or file:PATH"
_TCP: Final = re.compile(r"(?:\[([^\[\]]+)\]|([^:\[\]]+)):(\d{1,5})", re.ASCII)
_FD: Final = re.compile(r"\d{1,9}", re.ASCII)
_PORT_MAX: Final = 65535


@dataclass(frozen=True, slots=True)
class UnixUri:
    """A Unix socket."""

    path: str


@dataclass(frozen=True, slots=True)
class TcpUri:
    """A host by name or address; port 0 only to listen at any that is free."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class FdUri:
    """A stream socket that was inherited."""

    fd: int


@dataclass(frozen=True, slots=True)
class FileUri:
    """A file, to be written."""

    path: str


ChannelUri: TypeAlias = UnixUri | TcpUri | FdUri | FileUri


def parse_uri(uri: str) -> ChannelUri:
    """Read one. Raises: SettingsError."""
    kind, _, rest = uri.partition(":")
    if not rest or "\0" in rest:
        raise SettingsError("uri", uri, _ALLOWED)
    match kind:
        case "unix":
            return UnixUri(rest)
        case "file":
            return FileUri(rest)
        case "fd" if _FD.fullmatch(rest):
            return FdUri(int(rest))
        case "tcp":
            found = _TCP.fullmatch(rest)
            if found and int(found[3]) <= _PORT_MAX:
                return TcpUri(found[1] or found[2], int(found[3]))
    raise SettingsError("uri", uri, _ALLOWED)
