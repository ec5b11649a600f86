"""What the device has done since it was made; every number only grows.

Each counter is declared once: its name, with the unit in it, and what it counts.  The monitor, the
programs' JSON and docs/reference.md are made from that.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Final

__all__ = ["COUNTERS", "Counters"]


def _counter(text: str) -> Any:  # noqa: ANN401 - a field, whose type stands beside it
    return field(default=0, metadata={"help": text})


@dataclass(slots=True)
class Counters:
    """Pages are balloon pages of 4 KiB; a page named twice in inflate or deflate counts twice."""

    inflate_messages: int = _counter("inflate messages that were taken")
    inflated_pages: int = _counter("pages that they named")
    deflate_messages: int = _counter("deflate messages that could be read")
    deflated_pages: int = _counter("pages that they named")
    stats_messages: int = _counter("statistics samples")
    hint_rounds: int = _counter("hint rounds that the driver confirmed")
    hinted_pages: int = _counter("pages named within a hint round")
    ignored_hint_pieces: int = _counter(
        "pieces hinted outside a round, or while the guest's poison forbids their use"
    )
    report_messages: int = _counter("reports of free memory")
    reported_bytes: int = _counter("memory that they named")
    rejected_pages: int = _counter("pages that the driver named and that lie in no region")
    rejected_pieces: int = _counter("pieces hinted or reported that do not lie in one region")
    refused_chains: int = _counter("chains returned without being looked at")
    broken_rings: int = _counter("rings that the driver broke")
    discard_calls: int = _counter("system calls that dropped memory")
    discarded_bytes: int = _counter("memory that was dropped")
    failed_discard_bytes: int = _counter("memory that the system refused to drop")
    split_blocks: int = _counter(
        "aligned 2 MiB of host memory of which one discard dropped only a part"
    )
    skipped_inhibited_bytes: int = _counter("memory not dropped because that was inhibited")
    skipped_report_bytes: int = _counter(
        "reported memory not dropped because of the guest's poison, or the limit"
    )
    config_reads: int = _counter("reads of the configuration by the driver")
    config_writes: int = _counter("writes of the configuration by the driver")


#: Name and meaning of each, in order.
COUNTERS: Final = tuple((one.name, str(one.metadata["help"])) for one in fields(Counters))
