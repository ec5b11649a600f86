"""What the device has done since it was made; every number only grows."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Counters"]


@dataclass(slots=True)
class Counters:
    """Pages are balloon pages of 4 KiB; a page named twice in inflate or deflate counts twice."""

    inflate_messages: int = 0
    inflated_pages: int = 0
    deflate_messages: int = 0
    deflated_pages: int = 0
    stats_messages: int = 0
    hint_rounds: int = 0  #: that the driver confirmed
    hinted_pages: int = 0  #: within a round
    ignored_hint_pieces: int = 0  #: outside a round, or while the guest's poison forbids their use
    report_messages: int = 0
    reported_bytes: int = 0
    rejected_pages: int = 0  #: of those, named by the driver, but in no region
    rejected_pieces: int = 0  #: hinted or reported, but not wholly in one region
    refused_chains: int = 0  #: returned without being looked at
    broken_rings: int = 0
    discard_calls: int = 0
    discarded_bytes: int = 0
    failed_discard_bytes: int = 0
    split_blocks: int = 0  #: aligned 2 MiB of host memory of which one discard dropped only a part
    withheld_bytes: int = 0  #: not discarded because discarding was inhibited
    kept_report_bytes: int = 0  #: not discarded because of the guest's poison, or the limit
    config_reads: int = 0
    config_writes: int = 0

    def add_discard(
        self, calls: int, discarded_bytes: int, failed_bytes: int, split_blocks: int
    ) -> None:
        """Note what one discard effect did."""
        self.discard_calls += calls
        self.discarded_bytes += discarded_bytes
        self.failed_discard_bytes += failed_bytes
        self.split_blocks += split_blocks
