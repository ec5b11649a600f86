"""Who holds a monitor that does not answer: QEMU serves one client of a socket at a time.

Best effort: the kernel's list of Unix sockets tells which ones belong to the monitor's and who is
at their other end, as far as this user may see.
Source: Linux include/uapi/linux/unix_diag.h, net/unix/diag.c; sock_diag(7).
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["holder_of"]

_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_SHOW_NAME, _SHOW_VFS, _SHOW_PEER = 1, 2, 4
_ATTRIBUTE_NAME, _ATTRIBUTE_VFS, _ATTRIBUTE_PEER = 0, 1, 2
_ESTABLISHED: Final = 1

_HEADER: Final = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_REQUEST: Final = struct.Struct("=BBHIIIII")  # family, protocol, -, states, inode, show, cookie
_SOCKET: Final = struct.Struct("=BBBBIII")  # family, type, state, -, inode, cookie
_ATTRIBUTE: Final = struct.Struct("=HH")  # length, type
_VFS: Final = struct.Struct("=II")  # inode, device
_PEER: Final = struct.Struct("=I")
_READ_BYTES: Final = 1 << 16


class _Socket(NamedTuple):
    state: int
    name: bytes
    file: tuple[int, int] | None  #: inode and device of the path it was bound to
    peer: int | None  #: inode of the socket at the other end


def holder_of(path: Path) -> str | None:
    """The other client of the server at this socket: its name and process; None: not known."""
    with suppress(OSError, struct.error):
        found = os.stat(path)  # noqa: PTH116 - its numbers are needed
        device = os.major(found.st_dev) << 20 | os.minor(found.st_dev)
        peers = {
            one.peer
            for one in _unix_sockets()
            if one.state == _ESTABLISHED
            and one.peer
            and (one.file == (found.st_ino, device) or one.name == os.fsencode(path.absolute()))
        }
        return _owner_of(peers)
    return None


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
    state = _SOCKET.unpack_from(payload)[2]
    attributes: dict[int, bytes] = {}
    rest = payload[_SOCKET.size :]
    while len(rest) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(rest)
        attributes[kind] = rest[_ATTRIBUTE.size : length]
        rest = rest[(max(length, _ATTRIBUTE.size) + 3) & ~3 :]
    vfs, peer = attributes.get(_ATTRIBUTE_VFS), attributes.get(_ATTRIBUTE_PEER)
    inode, device = _VFS.unpack(vfs) if vfs else (0, 0)
    return _Socket(
        state,
        attributes.get(_ATTRIBUTE_NAME, b"").rstrip(b"\0"),
        (inode, device) if vfs else None,
        _PEER.unpack(peer)[0] if peer else None,
    )


def _owner_of(inodes: set[int]) -> str | None:
    """The process that has one of these sockets, but not this one."""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for process in Path("/proc").glob("[0-9]*"):
        if wanted and process.name != str(os.getpid()):
            with suppress(OSError):  # it has ended, or is somebody else's
                if any(os.readlink(fd) in wanted for fd in (process / "fd").iterdir()):  # noqa: PTH115
                    return f"{(process / 'comm').read_text().strip()}, process {process.name}"
    return None
