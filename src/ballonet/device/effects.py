"""What the device asks its surroundings to do; the surroundings obey in the order given.

The order is the safety rule: a `Discard` stands before the answer that lets the guest use the
page again, because the device makes that answer only when it is asked for its next effect.
"""

from __future__ import annotations

from dataclasses import dataclass

from ballonet.memory.runs import PageRuns, Ranges
from ballonet.virtio.features import Feature
from ballonet.virtio.queues import QueueRole

__all__ = [
    "ActualChanged",
    "Call",
    "ChainDone",
    "ChainRefused",
    "ConfigChanged",
    "Discard",
    "Effect",
    "Emit",
    "Event",
    "HintRoundChanged",
    "Negotiated",
    "PagesHinted",
    "PagesRejected",
    "PagesReported",
    "PartDone",
    "RingBroken",
    "StatsReceived",
]


@dataclass(frozen=True, slots=True)
class Discard:
    """Drop the host memory behind these ranges, now."""

    ranges: Ranges


@dataclass(frozen=True, slots=True)
class Call:
    """Tell the driver that the queue has used chains."""

    queue: int


@dataclass(frozen=True, slots=True)
class ChainDone:
    """Nothing to do: a chain is finished, and this is the moment to look at anything else.

    A driver may ask for no calls and add chains for ever; without this the device would never stop.
    """


@dataclass(frozen=True, slots=True)
class PartDone:
    """Nothing to do: a part of a long message is done, and anything else may be looked at."""


@dataclass(frozen=True, slots=True)
class ConfigChanged:
    """Tell the driver to read its configuration again."""


@dataclass(frozen=True, slots=True)
class Negotiated:
    """The driver accepted these features."""

    features: Feature


@dataclass(frozen=True, slots=True)
class ActualChanged:
    """The driver wrote another size of the balloon, in balloon pages."""

    actual_pages: int


@dataclass(frozen=True, slots=True)
class StatsReceived:
    """The driver sent a statistics sample; it stands in the device's statistics."""


@dataclass(frozen=True, slots=True)
class HintRoundChanged:
    """A hint round went on to another state."""

    state: str  #: name of a HintState
    cmd_id: int


@dataclass(frozen=True, slots=True)
class PagesHinted:
    """Pages a migration need not send, if it read its dirty log after it began this round.

    The driver may use them again at any time: only what is dirty by an older reading may be
    cleared, after the log was armed anew.
    """

    cmd_id: int
    runs: PageRuns


@dataclass(frozen=True, slots=True)
class PagesReported:
    """The driver reported free memory; `is_kept`: none of it was to be discarded."""

    reported_bytes: int
    is_kept: bool


@dataclass(frozen=True, slots=True)
class PagesRejected:
    """The driver named memory that lies in no region; it was left alone."""

    role: QueueRole
    count: int  #: balloon pages, or pieces of a hint or report


@dataclass(frozen=True, slots=True)
class ChainRefused:
    """A chain was returned without being looked at."""

    role: QueueRole | None
    reason: str


@dataclass(frozen=True, slots=True)
class RingBroken:
    """The driver broke a ring; the whole device stands still until it is set up anew."""

    queue: int
    reason: str


Event = (
    Negotiated
    | ActualChanged
    | StatsReceived
    | HintRoundChanged
    | PagesHinted
    | PagesReported
    | PagesRejected
    | ChainRefused
    | RingBroken
)


@dataclass(frozen=True, slots=True)
class Emit:
    """Something an observer may want to know."""

    event: Event


Effect = Discard | Call | ChainDone | PartDone | ConfigChanged | Emit
