"""The statistics queue, which runs backwards.

The device keeps the driver's one buffer, and asks for the next sample by returning it.
Source: VIRTIO 1.4 5.5.6.3; QEMU virtio_balloon_receive_stats.
"""

from __future__ import annotations

from ballonet.virtio.stats import StatsSample, parse_stats

__all__ = ["Statistics"]


class Statistics:
    """The newest sample, and the held buffer by its chain's head."""

    def __init__(self) -> None:
        self.sample: StatsSample | None = None
        self.samples = 0
        self.held: int | None = None

    def receive(self, head: int, raw: bytes) -> int | None:
        """Keep a buffer; returns the head of the one kept before, which must be answered now."""
        extra, self.held = self.held, head
        self.sample = parse_stats(raw)
        self.samples += 1
        return extra

    def take_held(self) -> int | None:
        """Give up the held buffer, to be answered or made available again."""
        head, self.held = self.held, None
        return head
