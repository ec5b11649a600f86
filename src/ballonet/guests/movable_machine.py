"""What the source of a migration needs of the machine whose guest moves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from ballonet.errors import BallonetError

__all__ = ["MovableMachine"]


class MovableMachine(Protocol):
    """What a machine does for its migration; all of it on its loop's thread."""

    def facts(self) -> dict[str, int]:
        """Where an engine finds the guest: see `GuestFacts`."""
        ...

    def start_tracking(self) -> Iterator[None]:
        """Have writes seen, a step at a time so that the guest can go on in between.

        Raises: BallonetError.
        """
        ...

    def stop_tracking(self) -> None:
        """Have them unseen again; safe to call again."""
        ...

    def take_device_log(self) -> bytes:
        """Pages the device has written since the last time: ascending, each a u64."""
        ...

    def throttle(self, percent: int) -> None:
        """Let the guest stand still for a part of its time."""
        ...

    def stop(self, stopped: Callable[[BallonetError | None], None], timeout_s: float) -> None:
        """Stop guest and device; `stopped` is told when they have, or why they do not."""
        ...

    def resume(self) -> None:
        """Let both go on, wherever they were on the way to a stop. Raises: BallonetError."""
        ...

    def save_states(self) -> dict[str, bytes]:
        """What the guest and its device are besides memory, by name. Raises: BallonetError."""
        ...

    def device_memory(self) -> list[tuple[int, int]]:
        """What the device uses of guest memory: each an address and bytes."""
        ...

    @property
    def is_paused(self) -> bool:
        """Its operator wants it to stand still."""
        ...
