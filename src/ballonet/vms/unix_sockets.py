"""Whose a Unix socket is: who serves it, and who holds a monitor that serves one client at a time.

Best effort: the kernel's list of Unix sockets tells which ones belong to the monitor's and who is
at their other end, as far as this user may see.  Nobody is connected to.
Source: Linux include/uapi/linux/unix_diag.h, net/unix/diag.c; sock_diag(7).
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from ballonet.vms.reply import printable

__all__ = ["SocketOwner", "SocketTable", "holder_of", "socket_inode"]

_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_SHOW_NAME, _SHOW_VFS, _SHOW_PEER = 1, 2, 4
_ATTRIBUTE_NAME, _ATTRIBUTE_VFS, _ATTRIBUTE_PEER = 0, 1, 2
_ESTABLISHED, _LISTENING = 1, 10

_HEADER: Final = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_REQUEST: Final = struct.Struct("=BBHIIIII")  # family, protocol, -, states, inode, show, cookie
_SOCKET: Final = struct.Struct("=BBBBIII")  # family, type, state, -, inode, cookie
_ATTRIBUTE: Final = struct.Struct("=HH")  # length, type
_VFS: Final = struct.Struct("=II")  # inode, device
_PEER: Final = struct.Struct("=I")
_READ_BYTES: Final = 1 << 16


class _Socket(NamedTuple):
    inode: int
    state: int
    name: bytes
    file: tuple[int, int] | None  #: inode and device of the path it was bound to
    peer: int | None  #: inode of the socket at the other end


@dataclass(frozen=True, slots=True)
class SocketOwner:
    """A process that has a socket."""

    pid: int
    program: str

    def __str__(self) -> str:
        return f"{self.program}, process {self.pid}"


class SocketTable:
    """Every Unix socket of this network namespace at one moment, and whose they are."""

    def __init__(self) -> None:
        """What cannot be found out is missing from it."""
        self._sockets: list[_Socket] = []
        with suppress(OSError, struct.error):
            self._sockets = list(_unix_sockets())
        self._owners: Mapping[int, SocketOwner] | None = None

    def server_of(self, path: Path) -> SocketOwner | None:
        """Who listens at a path."""
        listening = [one.inode for one in self._at(path) if one.state == _LISTENING]
        return self._owner_of(listening)

    def client_of(self, path: Path) -> SocketOwner | None:
        """Who is connected to whoever listens there, other than this process."""
        return self._owner_of(self._peers(path))

    def has_client(self, path: Path) -> bool:
        """Somebody is connected, known or not."""
        return bool(self._peers(path))

    def has_us(self, path: Path) -> bool:
        """Our own process is connected."""
        peers = self._peers(path)
        return bool(peers) and not _own_inodes().isdisjoint(peers)

    def path_of(self, inode: int) -> str | None:
        """Where a socket of this number is bound."""
        for one in self._sockets:
            if one.inode == inode and one.name and not one.name.startswith(b"\0"):
                return os.fsdecode(one.name)
        return None

    def _peers(self, path: Path) -> list[int]:
        return [one.peer for one in self._at(path) if one.state == _ESTABLISHED and one.peer]

    def _at(self, path: Path) -> list[_Socket]:
        """All that are bound there: the one that listens, and those that it has accepted."""
        with suppress(OSError):
            found = os.stat(path)  # noqa: PTH116 - its numbers are needed
            file = found.st_ino, os.major(found.st_dev) << 20 | os.minor(found.st_dev)
            name = os.fsencode(path.absolute())
            return [one for one in self._sockets if one.file == file or one.name == name]
        return []

    def _owner_of(self, inodes: Collection[int]) -> SocketOwner | None:
        if not inodes:
            return None
        if self._owners is None:
            self._owners = _owners()
        return next((self._owners[one] for one in inodes if one in self._owners), None)


def holder_of(path: Path) -> str | None:
    """The other client of the server at this socket: its name and process; None: not known."""
    holder = SocketTable().client_of(path)
    return None if holder is None else str(holder)


def _unix_sockets() -> Iterator[_Socket]:
    """Every Unix socket of this network namespace. Raises: OSError."""
    show = _SHOW_NAME | _SHOW_VFS | _SHOW_PEER
    request = _REQUEST.pack(socket.AF_UNIX, 0, 0, 0xFFFFFFFF, 0, show, 0xFFFFFFFF, 0xFFFFFFFF)
    header = _HEADER.pack(
        _HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0
    )
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as netlink:
        netlink.settimeout(1.0)
        netlink.send(header + request)
        while True:
            for kind, payload in _messages(netlink.recv(_READ_BYTES)):
                if kind in (_NLMSG_DONE, _NLMSG_ERROR):
                    return
                yield _parse(payload)


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _HEADER.size:
        length, kind, *_ = _HEADER.unpack_from(data)
        yield kind, data[_HEADER.size : length]
        data = data[(max(length, _HEADER.size) + 3) & ~3 :]


def _parse(payload: bytes) -> _Socket:
    _, _, state, _, own_inode, *_ = _SOCKET.unpack_from(payload)
    attributes: dict[int, bytes] = {}
    rest = payload[_SOCKET.size :]
    while len(rest) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(rest)
        attributes[kind] = rest[_ATTRIBUTE.size : length]
        rest = rest[(max(length, _ATTRIBUTE.size) + 3) & ~3 :]
    vfs, peer = attributes.get(_ATTRIBUTE_VFS), attributes.get(_ATTRIBUTE_PEER)
    inode, device = _VFS.unpack(vfs) if vfs else (0, 0)
    return _Socket(
        own_inode,
        state,
        attributes.get(_ATTRIBUTE_NAME, b"").rstrip(b"\0"),
        (inode, device) if vfs else None,
        _PEER.unpack(peer)[0] if peer else None,
    )


def _own_inodes() -> set[int]:
    return {inode for fd in Path("/proc/self/fd").iterdir() if (inode := socket_inode(fd))}


def _owners() -> dict[int, SocketOwner]:
    """Whose every socket is, as far as this user may see; not this process's own."""
    owners: dict[int, SocketOwner] = {}
    for process in Path("/proc").glob("[0-9]*"):
        if process.name == str(os.getpid()):
            continue
        with suppress(OSError):  # it has ended, or is somebody else's
            inodes = [inode for fd in (process / "fd").iterdir() if (inode := socket_inode(fd))]
            if inodes:
                program = (process / "comm").read_text(errors="replace").strip()
                owner = SocketOwner(int(process.name), printable(program))
                owners |= dict.fromkeys(inodes, owner)
    return owners


def socket_inode(fd: Path) -> int | None:
    """The number of the socket that /proc/PID/fd/N is; None, if it is none, or gone."""
    with suppress(OSError):
        link = os.readlink(fd)  # noqa: PTH115 - it is no path
        if link.startswith("socket:["):
            return int(link[len("socket:[") : -1])
    return None
