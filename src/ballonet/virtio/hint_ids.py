"""Ids of free page hint rounds, as `free_page_hint_cmd_id` shows them.

Source: VIRTIO 1.4 5.5.6.5 (0 and 1 are reserved); the range for rounds is QEMU's.
"""

from __future__ import annotations

from typing import Final

__all__ = ["CMD_ID_DONE", "CMD_ID_MAX", "CMD_ID_MIN", "CMD_ID_STOP", "cmd_id_after", "next_cmd_id"]

CMD_ID_STOP: Final = 0  #: no hints are wanted now
CMD_ID_DONE: Final = 1  #: the driver may take its hinted pages back
CMD_ID_MIN: Final = 0x8000_0000  #: where counting starts; the first round is one above
CMD_ID_MAX: Final = 0xFFFF_FFFF


def next_cmd_id(cmd_id: int) -> int:
    """The id of the round after this one; wraps to CMD_ID_MIN."""
    return cmd_id_after(cmd_id, 1)


def cmd_id_after(cmd_id: int, rounds: int) -> int:
    """The id so many rounds later; wraps to CMD_ID_MIN."""
    return CMD_ID_MIN + (cmd_id - CMD_ID_MIN + rounds) % (CMD_ID_MAX + 1 - CMD_ID_MIN)
