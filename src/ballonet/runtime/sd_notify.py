"""What a service tells the systemd that has started it; nothing, where none has.

Units: seconds.
Source: sd_notify(3), sd_watchdog_enabled(3): one datagram of lines to NOTIFY_SOCKET.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress

__all__ = ["reloading", "sd_notify", "watchdog_s"]


def sd_notify(*lines: str) -> None:
    """Tell it, if it wants to know; that it does not listen is no reason to fail."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0)
        sock.sendto("\n".join(lines).encode(), address)


def reloading() -> None:
    """What a `Type=notify-reload` service says before it reads its configuration anew."""
    sd_notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def watchdog_s(environment: Mapping[str, str]) -> float | None:
    """How long this process may say nothing before it is taken for hung; None: for ever."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    with suppress(ValueError):
        microseconds = int(environment.get("WATCHDOG_USEC", "0"))
        return microseconds / 1e6 if microseconds > 0 else None
    return None
