"""Where in a trace an event stands: one track for each party or queue.

The numbers are the `tid` of the Chrome trace event format: viewers show tracks in this order.
"""

from __future__ import annotations

from enum import IntEnum

from ballonet.virtio.queues import QueueRole

__all__ = ["Track", "track_of"]


class Track(IntEnum):
    """One line in a viewer."""

    HOST = 1  #: what is asked of the device
    SOCKET = 2  #: vhost-user messages
    CONFIG = 3  #: the configuration space, and calls to look at it
    INFLATE = 4
    DEFLATE = 5
    STATS = 6
    HINT = 7
    REPORTING = 8
    DISCARD = 9  #: memory given back to the host
    DEVICE = 10  #: what the device itself notices


def track_of(role: QueueRole | None) -> Track:
    """The track of a queue."""
    return Track.DEVICE if role is None else Track[role.name]
