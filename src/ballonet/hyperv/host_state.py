"""Where a host's conversation with one guest is."""

from __future__ import annotations

from enum import Enum

__all__ = ["HostState"]


class HostState(Enum):
    """QEMU's states, but that waiting for room in the ring and sending are one: POSTING."""

    WAIT_RESET = "wait-reset"  #: there is no channel
    VERSION = "version"
    CAPS = "caps"
    POST_INIT_WAIT = "post-init-wait"  #: some versions of Windows crash if they are asked earlier
    IDLE = "idle"
    BALLOON_POSTING = "balloon-posting"
    BALLOON_REPLY_WAIT = "balloon-reply-wait"
    UNBALLOON_POSTING = "unballoon-posting"
    UNBALLOON_REPLY_WAIT = "unballoon-reply-wait"
    HOT_ADD_POSTING = "hot-add-posting"
    HOT_ADD_REPLY_WAIT = "hot-add-reply-wait"
