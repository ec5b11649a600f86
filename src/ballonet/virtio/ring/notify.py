"""When to wake the other side, and the barrier that makes the question safe.

Source: VIRTIO 1.4 2.7.10 (EVENT_IDX), 2.8.10 for packed rings.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Fence", "wants_event"]

#: Orders every earlier access to guest memory before every later one, stores before loads too.
#: Handed in, because a pure module has no instruction for it.
Fence = Callable[[], None]


def wants_event(event_idx: int, new_idx: int, old_idx: int) -> bool:
    """True if moving from `old_idx` to `new_idx` passed the index the other side asked for.

    Works for indexes modulo anything up to 2^16: those that never occur are passed by nobody.
    """
    return (new_idx - event_idx - 1) & 0xFFFF < (new_idx - old_idx) & 0xFFFF
