"""Feature bits a balloon meets, and what may be negotiated.

Not here: vhost-user's own protocol features (vhost_user/messages.py).
Source: VIRTIO 1.4 5.5.3 (balloon), 6 (reserved bits).
"""

from __future__ import annotations

from enum import IntFlag
from typing import Final

__all__ = ["BALLOON_FEATURES", "RING_FEATURES", "Feature", "feature_names"]


class Feature(IntFlag):
    """One bit each; the number in the comment is the bit, as the specification counts."""

    MUST_TELL_HOST = 1 << 0  #: 0: a page stays the device's until its deflate is used
    STATS_VQ = 1 << 1  #: 1: the statistics queue exists
    DEFLATE_ON_OOM = 1 << 2  #: 2: the driver may take pages back under pressure
    FREE_PAGE_HINT = 1 << 3  #: 3: the hint queue exists
    PAGE_POISON = 1 << 4  #: 4: `poison_val` says what freed pages hold
    PAGE_REPORTING = 1 << 5  #: 5: the reporting queue exists
    INDIRECT_DESC = 1 << 28  #: 28: a descriptor may point to a table of descriptors
    EVENT_IDX = 1 << 29  #: 29: each side says at which index it wants to hear
    VERSION_1 = 1 << 32  #: 32: not legacy
    ACCESS_PLATFORM = 1 << 33  #: 33: addresses are not guest-physical; balloons never use it
    RING_PACKED = 1 << 34  #: 34: packed rings
    IN_ORDER = 1 << 35  #: 35: buffers are used in the order they were made available


#: Bits that belong to the balloon alone.
BALLOON_FEATURES: Final = (
    Feature.MUST_TELL_HOST
    | Feature.STATS_VQ
    | Feature.DEFLATE_ON_OOM
    | Feature.FREE_PAGE_HINT
    | Feature.PAGE_POISON
    | Feature.PAGE_REPORTING
)
#: Bits of the ring that are offered unless somebody asks for others; RING_PACKED and IN_ORDER are
#: served too.
RING_FEATURES: Final = Feature.INDIRECT_DESC | Feature.EVENT_IDX | Feature.VERSION_1


def feature_names(features: int) -> list[str]:
    """Names of the known bits that are set, lowest bit first."""
    return [str(bit.name) for bit in Feature if features & bit]
