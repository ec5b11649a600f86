"""A device and its monitor together, as long as a block lasts."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from ballonet.control.control import Control
from ballonet.monitor.device_machine import DeviceMachine
from ballonet.monitor.device_watch import DeviceWatch
from ballonet.monitor.monitor import Monitor
from ballonet.monitor.outbox import Outbox
from ballonet.monitor.server import MonitorServer
from ballonet.qmp.version import NEWEST, QemuVersion

__all__ = ["monitoring", "switching_fast"]

#: How long the monitor's thread may keep the interpreter when the device's thread wants it: the
#: guest sleeps until its message is answered, and Python's own 5 ms are twenty messages long.
_SWITCH_S: Final = 0.0002


@contextmanager
def monitoring(
    control: Control,
    sockets: Sequence[socket.socket],
    *,
    balloon_id: str = "balloon0",
    memory_bytes: int | None = None,
    name: str | None = None,
    version: QemuVersion = NEWEST,
) -> Iterator[None]:
    """Serve the device's monitor on sockets that listen; clients are told of the end."""
    outbox = Outbox()
    machine = DeviceMachine(
        control,
        balloon_id=balloon_id,
        memory_bytes=memory_bytes,
        name=name,
        version=version,
        post=outbox.post,
    )
    watch = DeviceWatch(control, outbox.post, machine.without_balloon)
    monitors = MonitorServer()
    control.keep_latest()
    control.subscribe(watch.observe)
    monitors.start()
    monitors.add(Monitor(machine, sockets, outbox, watch.look, version=version))
    try:
        with switching_fast():
            yield
    finally:
        control.unsubscribe(watch.observe)
        machine.end("host-signal")
        monitors.stop()


@contextmanager
def switching_fast() -> Iterator[None]:
    """Let threads hand the interpreter over quickly, inside the block."""
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(min(before_s, _SWITCH_S))
    try:
        yield
    finally:
        sys.setswitchinterval(before_s)
