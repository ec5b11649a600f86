"""Feature bits a balloon meets, and what may be negotiated.

What is known of a bit that a device can offer stands in one row of `FEATURES`: options of the
programs, properties of the monitor, what is offered by default and docs/reference.md come from it.
Not here: vhost-user's own protocol features (vhost_user/messages.py).
Source: VIRTIO 1.4 5.5.3 (balloon), 6 (reserved bits).
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntFlag
from functools import reduce
from operator import or_
from typing import Final, NamedTuple

__all__ = [
    "BALLOON_FEATURES",
    "DEFAULT_OFFER",
    "FEATURES",
    "RING_FEATURES",
    "Feature",
    "FeatureRow",
    "feature_names",
]


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


class FeatureRow(NamedTuple):
    """One bit that a device can offer."""

    bit: Feature
    help: str
    offered: bool  #: unless somebody says otherwise
    option: str | None = None  #: of the programs that start a device; None: always as by default
    in_qemu: bool = False  #: QEMU's balloon has a property of the same name

    @property
    def is_of_ring(self) -> bool:
        """It is about rings, of whatever device [VIRTIO 1.4 6]."""
        return self.bit >= Feature.INDIRECT_DESC


_F: Final = Feature
FEATURES: Final = (
    FeatureRow(
        _F.MUST_TELL_HOST,
        "The guest asks before it uses a page again.",
        offered=True,
        option="must-tell-host",
    ),
    FeatureRow(_F.STATS_VQ, "The guest sends statistics.", offered=True),
    FeatureRow(
        _F.DEFLATE_ON_OOM,
        "The guest may take memory back when it runs out of it.",
        offered=False,  # it changes how the guest accounts for its memory
        option="deflate-on-oom",
        in_qemu=True,
    ),
    FeatureRow(
        _F.FREE_PAGE_HINT,
        "The guest names free pages to a migration.",
        offered=True,
        option="free-page-hint",
        in_qemu=True,
    ),
    FeatureRow(
        _F.PAGE_REPORTING,
        "The guest gives free memory back by itself.",
        offered=False,  # it makes the guest busy without being asked
        option="free-page-reporting",
        in_qemu=True,
    ),
    FeatureRow(
        _F.PAGE_POISON,
        "The guest says what its free pages hold.",
        offered=True,
        option="page-poison",
        in_qemu=True,
    ),
    FeatureRow(_F.INDIRECT_DESC, "A descriptor may point to a table of them.", offered=True),
    FeatureRow(_F.EVENT_IDX, "Each side says at which index it wants to hear.", offered=True),
    FeatureRow(_F.VERSION_1, "The driver is not a legacy one.", offered=True),
    FeatureRow(_F.RING_PACKED, "Rings may be packed.", offered=False, option="packed"),
    FeatureRow(
        _F.IN_ORDER,
        "Buffers are used in order, which the guest may count on.",
        offered=False,
        option="in-order",
    ),
)


def _bits(rows: Iterable[FeatureRow]) -> Feature:
    return reduce(or_, (row.bit for row in rows), Feature(0))


#: Bits that belong to the balloon alone.
BALLOON_FEATURES: Final = _bits(row for row in FEATURES if not row.is_of_ring)
#: Bits of the ring that are offered unless somebody asks for others.
RING_FEATURES: Final = _bits(row for row in FEATURES if row.is_of_ring and row.offered)
#: What a device offers unless told otherwise.
DEFAULT_OFFER: Final = _bits(row for row in FEATURES if row.offered)


def feature_names(features: int) -> list[str]:
    """Names of the known bits that are set, lowest bit first."""
    return [str(bit.name) for bit in Feature if features & bit]
