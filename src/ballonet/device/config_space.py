"""Who may read and write what in the configuration space.

A read never fails: bytes that do not exist read as zero, because a front-end that is refused one
panics (Cloud Hypervisor) or leaves a variable uninitialised (User-Mode Linux).  A write never
fails either: QEMU writes the whole space back, read-only fields included, so those are ignored.
Source: VIRTIO 1.4 5.5.4, 5.5.6.2; QEMU virtio_balloon_set_config.
"""

from __future__ import annotations

from ballonet.device.poison import PagePoison
from ballonet.virtio.config import ACTUAL, CONFIG_BYTES, POISON_VAL, BalloonConfig

__all__ = ["ConfigSpace"]


class ConfigSpace:
    """The four fields; sizes in balloon pages."""

    def __init__(self) -> None:
        self.num_pages = 0
        self.actual_pages = 0
        self.poison = PagePoison()
        self._actual_raw = bytes(4)
        self._left_pages: int | None = None  # `actual` at a reset, until it is known who came after

    def read(self, offset: int, length: int, *, cmd_id: int) -> bytes:
        """`length` bytes from `offset`; zero where nothing exists."""
        actual = int.from_bytes(self._actual_raw, "little")
        space = BalloonConfig(self.num_pages, actual, cmd_id, self.poison.value).pack()
        return space[offset : offset + length].ljust(length, b"\0")

    def write(self, offset: int, data: bytes, *, poison: bool) -> bool:
        """Take the driver's bytes; True if `actual` changed.

        `actual` is taken when its last byte is written, because old drivers write it byte by byte
        upwards [VIRTIO 1.4 5.5.6.2.2].  `poison` says whether PAGE_POISON was offered: QEMU's
        generic device passes the write on before it tells what the driver accepted.
        """
        old = BalloonConfig(0, 0, 0, self.poison.value).pack()
        raw = bytearray(old[: ACTUAL.start] + self._actual_raw + old[ACTUAL.stop :])
        end = min(offset + len(data), CONFIG_BYTES)
        if offset >= end:
            return False
        raw[offset:end] = data[: end - offset]
        self._actual_raw = bytes(raw[ACTUAL])
        if poison and end > POISON_VAL.start:
            alone = offset >= POISON_VAL.start
            self.poison.write(int.from_bytes(raw[POISON_VAL], "little"), alone=alone)
        if not offset < ACTUAL.stop <= end:
            return False
        before, self.actual_pages = self.actual_pages, int.from_bytes(raw[ACTUAL], "little")
        if before == self.actual_pages:
            return False
        self._left_pages = None
        return True

    @property
    def kept_actual_pages(self) -> int:
        """What the driver said last, even if it is gone: it may come back and say nothing new."""
        return self.actual_pages if self._left_pages is None else self._left_pages

    def restore_actual(self, actual_pages: int) -> None:
        """Believe what the guest said to another device, until its rings show who it is."""
        self._show_actual(actual_pages)
        self._left_pages = actual_pages

    def take_over_actual(self, actual_pages: int) -> None:
        """The guest that said this to another device is here now: its memory came along."""
        self._show_actual(actual_pages)
        self._left_pages = None

    def reset(self) -> None:
        """Virtio reset: the target and `actual` stay, as in QEMU."""
        self.poison.reset()
        self._left_pages = self.kept_actual_pages

    def forget_guest(self) -> None:
        """The guest is gone: what it said about itself no longer holds; the target stays."""
        self.poison.forget_guest()
        self._left_pages = self.kept_actual_pages
        self._show_actual(0)

    def recognise_driver(self, *, goes_on: bool) -> None:
        """The inflate ring starts: where it stood when the driver was last here, or afresh.

        A driver that goes on, behind a connection that was lost or a device that was replaced,
        has the same balloon and says nothing, because Linux writes `actual` only when it changes.
        A new one has none, and says nothing either.
        """
        if self._left_pages is not None:
            self._show_actual(self._left_pages if goes_on else 0)
            self._left_pages = None

    def _show_actual(self, actual_pages: int) -> None:
        self.actual_pages = actual_pages
        self._actual_raw = actual_pages.to_bytes(4, "little")
