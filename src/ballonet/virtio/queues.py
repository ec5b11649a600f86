"""Which queue a number means.

The specification numbers the five queues 0 to 4 whatever is negotiated (*fixed*).  Linux counts
only the queues it uses (*dense*): without STATS_VQ its hint queue is number 2.  Linux is what
guests run, so dense is the default and fixed is a switch.
Source: VIRTIO 1.4 5.5.2; Linux virtio_balloon.c init_vqs and the transports' find_vqs.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from ballonet.virtio.features import Feature

__all__ = ["QUEUE_COUNT", "QueueLayout", "QueueRole", "queue_roles"]


class QueueRole(Enum):
    """What a queue is for, in the order of the specification."""

    INFLATE = auto()  #: pages the driver gives
    DEFLATE = auto()  #: pages the driver takes back
    STATS = auto()  #: one buffer of statistics, returned by the device to ask for the next
    HINT = auto()  #: free pages during a migration
    REPORTING = auto()  #: free pages at run time


class QueueLayout(Enum):
    """How queue numbers are given out."""

    DENSE = "dense"  #: only negotiated queues count, as Linux does
    FIXED = "fixed"  #: the specification's numbers


QUEUE_COUNT: Final = len(QueueRole)

_NEEDS: Final = {
    QueueRole.INFLATE: Feature(0),
    QueueRole.DEFLATE: Feature(0),
    QueueRole.STATS: Feature.STATS_VQ,
    QueueRole.HINT: Feature.FREE_PAGE_HINT,
    QueueRole.REPORTING: Feature.PAGE_REPORTING,
}


def queue_roles(negotiated: int, layout: QueueLayout) -> tuple[QueueRole | None, ...]:
    """Role of each queue number, 0 to 4; None where the negotiated features leave no queue."""
    present = [negotiated & need == need for need in _NEEDS.values()]
    if layout is QueueLayout.FIXED:
        return tuple(
            role if is_there else None for role, is_there in zip(_NEEDS, present, strict=True)
        )
    roles: list[QueueRole | None] = [
        r for r, is_there in zip(_NEEDS, present, strict=True) if is_there
    ]
    return tuple(roles + [None] * (QUEUE_COUNT - len(roles)))
