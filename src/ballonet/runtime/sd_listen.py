"""Sockets that systemd has made before it started this process (socket activation).

Source: sd_listen_fds(3): LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES in the environment; descriptors
from 3 on.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from typing import Final

__all__ = ["take_listen_fds"]

_FIRST: Final = 3
_MOST: Final = 64
_NAMES: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


def take_listen_fds(environment: MutableMapping[str, str]) -> dict[int, str]:
    """The descriptors and their names; what this process starts is told of none of them."""
    pid, count, names = (environment.pop(name, "") for name in _NAMES)
    if pid != str(os.getpid()) or not count.isdecimal():
        return {}
    fds = range(_FIRST, _FIRST + min(int(count), _MOST))
    for fd in fds:
        os.set_inheritable(fd, False)  # noqa: FBT003 - its signature
    given = names.split(":") if names else []
    return {fd: given[number] if number < len(given) else "" for number, fd in enumerate(fds)}
