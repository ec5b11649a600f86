"""A device and its monitor together, as long as a block lasts."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ballonet.monitor.device_machine import DeviceMachine
from ballonet.monitor.device_watch import DeviceWatch
from ballonet.monitor.outbox import Outbox
from ballonet.monitor.server import MonitorServer
from ballonet.vhost_user.server import DeviceServer

__all__ = ["monitoring"]


@contextmanager
def monitoring(
    device: DeviceServer,
    sockets: Sequence[socket.socket],
    *,
    balloon_id: str = "balloon0",
    memory_bytes: int | None = None,
) -> Iterator[None]:
    """Serve the device's monitor on sockets that listen; clients are told of the end."""
    outbox = Outbox()
    machine = DeviceMachine(
        device, balloon_id=balloon_id, memory_bytes=memory_bytes, post=outbox.post
    )
    watch = DeviceWatch(device, outbox.post, machine.without_balloon)
    monitor = MonitorServer(machine, sockets, outbox, watch.look)
    device.subscribe(watch.observe)
    monitor.start()
    try:
        yield
    finally:
        device.unsubscribe(watch.observe)
        machine.end("host-signal")
        monitor.stop()
