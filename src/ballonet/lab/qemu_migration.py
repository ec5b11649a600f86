"""Migrations of a QEMU that is not ours, by its monitor: begun, waited for, cancelled.

Source: QEMU qapi/migration.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ballonet.errors import GuestError
from ballonet.lab.waiting import wait_until
from ballonet.runtime.monitor_socket import MonitorSocket

__all__ = [
    "FAST",
    "NOWHERE",
    "SLOW",
    "begin",
    "has_ended",
    "set_bandwidth",
    "set_postcopy",
    "wait_for",
]

#: A destination that takes everything, and has nothing of it.
NOWHERE: Final = "exec:cat > /dev/null"
#: Bytes a second; a first pass that lasts until it is made faster, and no limit to speak of.
SLOW, FAST = 1 << 20, 1 << 36
_ENDED: Final = frozenset({"completed", "failed", "cancelled"})


def set_postcopy(monitor: MonitorSocket, *, is_on: bool) -> None:
    """Allow post-copy. Raises: CommandRefusedError, on a machine that has none."""
    row = {"capability": "postcopy-ram", "state": is_on}
    monitor.execute("migrate-set-capabilities", capabilities=[row])


def set_bandwidth(monitor: MonitorSocket, bytes_per_s: int) -> None:
    """For the next migration, or the one under way. Raises: MonitorError."""
    monitor.execute("migrate-set-parameters", **{"max-bandwidth": bytes_per_s})


def begin(monitor: MonitorSocket, uri: str, bytes_per_s: int) -> None:
    """Begin a migration. Raises: MonitorError."""
    set_bandwidth(monitor, bytes_per_s)
    monitor.execute("migrate", uri=uri)


def has_ended(look: Mapping[str, Any]) -> bool:
    """Whatever became of it."""
    return look.get("status") in _ENDED


def wait_for(monitor: MonitorSocket, status: str) -> dict[str, Any]:
    """What `query-migrate` says when it is so. Raises: GuestError, if it becomes otherwise."""
    look: dict[str, Any] = {}

    def is_there() -> bool:
        look.clear()
        look.update(monitor.execute("query-migrate"))
        return look.get("status") == status or has_ended(look)

    wait_until(is_there, f"the migration does not become {status}")
    if look["status"] != status:
        raise GuestError(f"QEMU's migration: {look.get('error-desc', look['status'])}")
    return look
