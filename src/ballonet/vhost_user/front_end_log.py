"""What an operator should see of a front-end and its driver, each kind of line once in a while."""

from __future__ import annotations

import logging
from typing import Final

from ballonet.balloon.facts import (
    ActualChanged,
    ChainRefused,
    DiscardFailed,
    Fact,
    HintLeaseEnded,
    HintRoundChanged,
    Negotiated,
    PagesRejected,
    RingBroken,
)
from ballonet.runtime.quiet_log import QuietLog
from ballonet.virtio.features import feature_names

__all__ = ["FrontEndLog"]

_log: Final = logging.getLogger(__name__)


class FrontEndLog:
    """An observer; of the device, so that a front-end that comes again and again gains no line."""

    def __init__(self, quiet: QuietLog) -> None:
        self._quiet = quiet

    def observe(self, fact: Fact) -> None:
        """Log what is worth a line."""
        match fact:
            case ActualChanged(pages):
                _log.debug("actual is %d pages", pages)
            case RingBroken(queue, reason):
                self._quiet.warn("ring", f"the driver broke ring {queue}: {reason}")
            case ChainRefused(role, reason):
                name = role.name.lower() if role else "unused"
                self._quiet.warn("chain", f"{name} chain returned unread: {reason}")
            case PagesRejected(role, count):
                name = role.name.lower()
                self._quiet.warn("pages", f"{name} named {count} places outside memory")
            case DiscardFailed(reason):
                self._quiet.warn("discard", f"discard failed: {reason}")
            case Negotiated(features):
                _log.info("driver accepted %s", ", ".join(feature_names(features)) or "nothing")
            case HintLeaseEnded(cmd_id):
                text = "is over: nobody asked for its pages in time, the guest has them back"
                self._quiet.warn("lease", f"hint round {cmd_id:#x} {text}")
            case HintRoundChanged(state, cmd_id):
                _log.debug("hint round %#x: %s", cmd_id, state.lower())
