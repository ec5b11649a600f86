"""What the driver says its free pages hold, and whether a zero page may take their place.

A discarded page reads as zero, so free pages may be discarded only if the guest expects zeros of
them, or expects nothing.  A value that is not known forbids it: after a reset, because Linux does
not write it again when it resumes from hibernation; and before it is written at all.
Source: VIRTIO 1.4 5.5.6.6, 5.5.6.7; Linux virtballoon_probe, virtballoon_restore; QEMU
virtio_balloon_handle_report.
"""

from __future__ import annotations

__all__ = ["PagePoison"]


class PagePoison:
    """`poison_val`, and how far it can be believed."""

    def __init__(self) -> None:
        self.value = 0
        self.is_known = False
        self.negotiated = False  #: otherwise the guest expects nothing of its free pages
        self._was_non_zero = False

    def write(self, value: int, *, alone: bool) -> None:
        """Take the driver's value; `alone` says that no other field was written with it.

        A front-end that writes the whole space back repeats the zero a reset left there: that is
        no news from a driver that has poisoned pages before.
        """
        self.value = value
        if value:
            self.is_known = self._was_non_zero = True
        elif alone or not self._was_non_zero:
            self.is_known, self._was_non_zero = True, False

    def take_over(self, value: int | None) -> None:
        """Believe what another device knew; None: nothing, and then a zero alone tells nothing."""
        self.value, self.is_known = value or 0, value is not None
        self._was_non_zero = value != 0

    def allows_discard(self) -> bool:
        """A free page of the guest may be replaced by a zero page."""
        return not self.negotiated or (self.is_known and self.value == 0)

    def reset(self) -> None:
        """Virtio reset: the value is gone, what the guest's pages hold is not."""
        self.value = 0
        self.is_known = False

    def forget_guest(self) -> None:
        """Another guest comes next, with pages of its own."""
        self.reset()
        self._was_non_zero = False
