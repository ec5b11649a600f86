"""What to call a machine that has no name but the path of its socket."""

from __future__ import annotations

from typing import Final

from ballonet.vms.reply import printable

__all__ = ["name_of_socket"]

#: Sockets are called so for what they are, and their folders for whose they are.
_GENERIC: Final = frozenset(
    {"api", "balloon", "ch", "device", "firecracker", "mon", "monitor", "qmp", "sock", "socket"}
)


def name_of_socket(path: str) -> str:
    """`vm1` of /run/vm1.qmp and of /run/vm1/qmp."""
    folders, _, name = path.rpartition("/")
    stem = name.partition(".")[0] or name
    folder = folders.rpartition("/")[2]
    return printable(folder if stem in _GENERIC and folder else stem)
