"""The kinds of virtual machine monitors that can be spoken to, a row each.

An address is the kind, a colon, and what the kind understands; without a kind it is the path of a
QMP socket.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final

from ballonet.vms import qmp_machine
from ballonet.vms.machine import Machine

__all__ = ["ADAPTERS", "connected"]

Connect = Callable[[str], AbstractAsyncContextManager[Machine]]

_DEFAULT: Final = "qmp"
ADAPTERS: Final[Mapping[str, Connect]] = {
    "qmp": lambda path: qmp_machine.connected(Path(path)),
}


def connected(address: str) -> AbstractAsyncContextManager[Machine]:
    """A machine, connected inside the block. Raises: MonitorError, saying what to do."""
    kind, colon, rest = address.partition(":")
    if colon and kind in ADAPTERS:
        return ADAPTERS[kind](rest)
    return ADAPTERS[_DEFAULT](address)
