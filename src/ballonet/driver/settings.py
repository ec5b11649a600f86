"""How a driver is set up."""

from __future__ import annotations

from dataclasses import dataclass

from ballonet.virtio.features import BALLOON_FEATURES, Feature
from ballonet.virtio.queues import QueueLayout

__all__ = ["DriverSettings"]


@dataclass(frozen=True, slots=True)
class DriverSettings:
    """What it accepts, and how it counts queues."""

    accepts: Feature = (
        BALLOON_FEATURES | Feature.EVENT_IDX | Feature.VERSION_1 | Feature.RING_PACKED
    )
    layout: QueueLayout = QueueLayout.DENSE
    hint_order: int = 10  #: of the blocks it hints
