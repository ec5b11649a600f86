"""The front-end's side of vhost-user: what a VMM does, for a driver that lives in this process.

Calls the driver through two functions it is given.  A back-end that goes away is connected again.
Not here: guest memory (whoever made it), what is in the rings (driver), the connection
(back_end_link.py), what a migration asks for besides (device_migration.py).
Source: QEMU docs/interop/vhost-user.rst.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from ballonet.errors import GuestError, WireError
from ballonet.runtime.event_loop import Watcher
from ballonet.vhost_user.back_end_link import BackEndLink
from ballonet.vhost_user.device_migration import DeviceMigration
from ballonet.vhost_user.frontend_rings import FrontEndRings, SharedRegion
from ballonet.vhost_user.messages import (
    PROTOCOL_FEATURES_BIT,
    U64,
    ConfigAccess,
    ProtocolFeature,
    Request,
)
from ballonet.virtio.ring.driver import DriverRing

__all__ = ["FrontEnd", "SharedRegion"]

_ACKNOWLEDGE, _DRIVER, _DRIVER_OK, _FEATURES_OK = 1, 2, 4, 8
#: Rings of a back-end that does not say how long they may be.
_RING_ENTRIES: Final = 256
_log = logging.getLogger(__name__)


class FrontEnd:
    """One device behind a vhost-user socket; a `Transport`."""

    used_align: Final = 4

    def __init__(
        self,
        watcher: Watcher,
        path: Path,
        memory: Sequence[SharedRegion],
        *,
        called: Callable[[int], None],
        config_changed: Callable[[], None],
        reconnected: Callable[[], None] = lambda: None,
    ) -> None:
        self._link = BackEndLink(
            watcher,
            path,
            found_again=self._found_again,
            lost=self._lost,
            config_changed=config_changed,
        )
        self._rings = FrontEndRings(watcher, self._link, memory, called)
        self.migration: Final = DeviceMigration(self._link, self._rings, self._set_running)
        self._reconnected = reconnected
        self.reconnections = 0

    def connect(self) -> None:
        """Connect and begin a session. Raises: GuestError."""
        self._link.connect()

    def close(self) -> None:
        """Hang up; safe to call again."""
        self._link.disconnect()
        self._rings.drop()
        self.migration.close()

    @property
    def is_connected(self) -> bool:
        """There is a back-end."""
        return self._link.is_connected

    def reset(self) -> None:
        """Stop every ring; the back-end forgets the driver. Raises: GuestError."""
        if self._rings.are_running:
            self._rings.stop()
            self._set_status(0)
            if self._link.protocol & ProtocolFeature.RESET_DEVICE:
                self._link.tell(Request.RESET_DEVICE)
        self._rings.drop()

    def offered(self) -> int:
        """Feature bits of the device."""
        self._set_status(_ACKNOWLEDGE | _DRIVER)
        raw = self._link.ask(Request.GET_FEATURES)
        return int(U64.unpack(raw)[0]) & ~PROTOCOL_FEATURES_BIT

    def accept(self, features: int) -> None:
        """Settle on features. Raises: GuestError."""
        self._rings.features = features
        self._rings.tell_features()
        self._set_status(_ACKNOWLEDGE | _DRIVER | _FEATURES_OK)

    def queue_size(self, queue: int) -> int:
        """Entries a ring should have; 0 beyond the device's queues."""
        return _RING_ENTRIES if queue < self._link.queue_count else 0

    def set_queue(self, queue: int, ring: DriverRing) -> None:
        """Tell where a ring lies, when the driver is ready."""
        self._rings.add(queue, ring)

    def driver_ok(self) -> None:
        """Share the memory and start the rings. Raises: GuestError."""
        self._rings.start(is_new=True)
        self._set_running()

    def read_config(self, offset: int, length: int) -> bytes:
        """Read the configuration space; waits for a back-end. Raises: GuestError."""
        request = ConfigAccess(offset, 0, bytes(length)).pack()
        answer = self._link.ask(Request.GET_CONFIG, request, size=len(request))
        try:
            return ConfigAccess.parse(answer).data
        except WireError as error:
            raise GuestError(f"the device answers GET_CONFIG with {error}") from error

    def write_config(self, offset: int, data: bytes) -> None:
        """Write the configuration space; waits for a back-end. Raises: GuestError."""
        self._link.tell_each(Request.SET_CONFIG, ConfigAccess(offset, 0, data).pack())

    def kick(self, queue: int) -> None:
        """Tell the device of new chains; one that is away will look for itself."""
        self._rings.kick(queue)

    def reconnect(self) -> bool:
        """Try to find a back-end again and give it the rings; True if there is one."""
        return self._link.reconnect()

    def _lost(self) -> None:
        self._rings.mark_all()

    def _found_again(self) -> None:
        """Raises: GuestError."""
        if self._rings.are_running:
            self._rings.start(is_new=False)
            self._set_running()
        self.reconnections += 1
        _log.info("the device is back")
        self._reconnected()
        self._rings.look_everywhere()

    def _set_running(self) -> None:
        self._set_status(_ACKNOWLEDGE | _DRIVER | _FEATURES_OK | _DRIVER_OK)

    def _set_status(self, status: int) -> None:
        if self._link.protocol & ProtocolFeature.STATUS:
            self._link.tell(Request.SET_STATUS, U64.pack(status))
