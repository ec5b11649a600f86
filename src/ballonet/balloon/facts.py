"""Facts: what happened at a balloon, told to whoever observes it.

*News* is what a user may want to hear of: it is rare, or costs little beside its cause.  A *detail*
is one step of the conversation, and there are several for each message: it is put together only
while somebody observes details, so that a device nobody looks at pays nothing for them.
Observers are called on the balloon's own thread, in the order of what happened, and change nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ballonet.memory.runs import PageRuns
from ballonet.virtio.features import Feature
from ballonet.virtio.queues import QueueRole

__all__ = [
    "ActualChanged",
    "Called",
    "ChainDone",
    "ChainRefused",
    "CommandGiven",
    "ConfigAnnounced",
    "ConfigRead",
    "ConfigWritten",
    "Detail",
    "DiscardFailed",
    "Discarded",
    "Fact",
    "GuestChanged",
    "HintLeaseEnded",
    "HintRoundChanged",
    "Kicked",
    "MessageReceived",
    "MessageSent",
    "Negotiated",
    "News",
    "Observe",
    "Observers",
    "PagesHinted",
    "PagesRejected",
    "PagesReported",
    "RingBroken",
    "StatsReceived",
    "StatusReported",
]


@dataclass(frozen=True, slots=True)
class GuestChanged:
    """A guest's machine came or went, or shares other memory than before."""


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
class StatusReported:
    """A guest of Hyper-V said how much memory it needs, and how much it could have at once."""

    committed_bytes: int
    available_bytes: int


@dataclass(frozen=True, slots=True)
class HintRoundChanged:
    """A hint round went on to another state."""

    state: str  #: name of a HintState
    cmd_id: int


@dataclass(frozen=True, slots=True)
class HintLeaseEnded:
    """Whoever began hint rounds was silent too long: the guest is given its pages back."""

    cmd_id: int  #: of the last round


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
    """The driver reported free memory; `is_skipped`: none of it was to be discarded."""

    reported_bytes: int
    is_skipped: bool


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


@dataclass(frozen=True, slots=True)
class DiscardFailed:
    """The operating system refused to drop memory."""

    reason: str


News = (
    GuestChanged
    | Negotiated
    | ActualChanged
    | StatsReceived
    | StatusReported
    | HintRoundChanged
    | HintLeaseEnded
    | PagesHinted
    | PagesReported
    | PagesRejected
    | ChainRefused
    | RingBroken
    | DiscardFailed
)


@dataclass(frozen=True, slots=True)
class Kicked:
    """The driver told of new chains."""

    role: QueueRole | None


@dataclass(frozen=True, slots=True)
class ChainDone:
    """What a chain asks for is done, and it is about to be answered."""

    role: QueueRole
    pages: int  #: balloon pages that it names; 0 on a queue that names none
    #: which, in the order of the message; None on a queue that names pieces, or none
    pfns: NDArray[np.unsignedinteger] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Called:
    """The driver was told of used chains."""

    role: QueueRole | None


@dataclass(frozen=True, slots=True)
class Discarded:
    """Memory was dropped, or should have been."""

    ranges: int
    discarded_bytes: int
    began_ns: int  #: by the balloon's clock


@dataclass(frozen=True, slots=True)
class ConfigAnnounced:
    """The driver was told to read its configuration again."""


@dataclass(frozen=True, slots=True)
class ConfigRead:
    """The driver read its configuration, and got this."""

    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class ConfigWritten:
    """The driver wrote to its configuration."""

    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class CommandGiven:
    """The host asked for something."""

    name: str
    arguments: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """The guest's machine sent a message that concerns more than one queue or field."""

    name: str
    arguments: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class MessageSent:
    """The host's end sent a message, in a protocol in which it does so by itself."""

    name: str
    arguments: Mapping[str, object]


Detail = (
    Kicked
    | ChainDone
    | Called
    | Discarded
    | ConfigAnnounced
    | ConfigRead
    | ConfigWritten
    | CommandGiven
    | MessageReceived
    | MessageSent
)
Fact = News | Detail
Observe = Callable[[Fact], None]


class Observers:
    """Who is told; may be changed from any thread."""

    def __init__(self) -> None:
        self._of_news: tuple[Observe, ...] = ()
        self._of_details: tuple[Observe, ...] = ()

    @property
    def want_details(self) -> bool:
        """To be asked before a detail is put together."""
        return bool(self._of_details)

    def add(self, observe: Observe, *, details: bool = False) -> None:
        """Call `observe` for all news from now on, and for all details too if it wants them."""
        self._of_news = (*self._of_news, observe)
        if details:
            self._of_details = (*self._of_details, observe)

    def remove(self, observe: Observe) -> None:
        """Take back `add`."""
        self._of_news = tuple(one for one in self._of_news if one != observe)
        self._of_details = tuple(one for one in self._of_details if one != observe)

    def tell(self, news: News) -> None:
        """Tell everybody."""
        for observe in self._of_news:
            observe(news)

    def tell_detail(self, detail: Detail) -> None:
        """Tell those who want details."""
        for observe in self._of_details:
            observe(detail)
