"""Telling the driver that its configuration has changed, now or when it is there again."""

from __future__ import annotations

from ballonet.balloon.facts import ConfigAnnounced, Observers
from ballonet.balloon.request import TargetRequest
from ballonet.device.guest_link import GuestLink

__all__ = ["ConfigAnnouncement"]


class ConfigAnnouncement:
    """The one message that a device sends of its own accord."""

    def __init__(self, link: GuestLink, request: TargetRequest, observers: Observers) -> None:
        self._link, self._request, self._observers = link, request, observers
        self.is_held = True  #: nobody may be told: no ring is attached
        self._waits = False

    def announce(self) -> None:
        """Tell the driver, at once unless it may not be told."""
        if self.is_held:
            self._waits = True
            return
        self._waits = False
        self._request.sent()
        self._link.transport.config_changed()
        if self._observers.want_details:
            self._observers.tell_detail(ConfigAnnounced())

    def announce_late(self) -> None:
        """Tell the driver what it could not be told before, if there is anything."""
        if self._waits:
            self.announce()
