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
        self.held: int | None = None

    def receive(self, head: int, raw: bytes) -> None:
        """Keep a buffer; the one kept before must have been taken."""
        self.held = head
        self.sample = parse_stats(raw)

    def take_held(self) -> int | None:
        """Give up the held buffer, to be answered or made available again."""
        head, self.held = self.held, None
        return head
