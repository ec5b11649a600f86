"""Settings of a front-end that keep a balloon from working, as far as a device can tell.

Each is named with the setting of QEMU's generic device that mends it; other front-ends have the
same under other names, or cannot be set wrong.
Source: QEMU vhost-user-test-device-pci and its properties num_vqs and config_size.
"""

from __future__ import annotations

from typing import Final

from ballonet.balloon.request import Stage
from ballonet.vhost_user.messages import PROTOCOL_FEATURES_BIT
from ballonet.vhost_user.session import Session
from ballonet.virtio.config import ACTUAL, CONFIG_BYTES
from ballonet.virtio.queues import queue_roles

__all__ = ["find_problem"]

_NO_MEMORY: Final = (
    "the front-end starts rings but shares no guest memory; with QEMU: "
    "-object memory-backend-memfd,id=mem,size=SIZE,share=on -machine memory-backend=mem"
)


def find_problem(session: Session) -> str | None:
    """What to mend at the front-end, in one line; None: nothing that is known."""
    if _lacks_memory(session):
        return _NO_MEMORY
    return _lacks_queues(session) or _lacks_config(session)


def _lacks_memory(session: Session) -> bool:
    """All is said about a ring, but there is no memory it could lie in."""
    if session.memory.table.regions:
        return False
    all_enabled = not session.vrings.features & PROTOCOL_FEATURES_BIT
    return any(
        vring.has_kick and vring.num and vring.addresses and (vring.enabled or all_enabled)
        for vring in session.vrings.vrings
    )


def _lacks_queues(session: Session) -> str | None:
    """QEMU gives each queue its call before a driver is there: then they can be counted.

    A driver that does not find a queue of a feature it takes gives up before it says a word.
    """
    have = sum(vring.has_call for vring in session.vrings.vrings)
    if session.vrings.features or not have or not session.config_end:
        return None
    offered, layout = session.balloon.settings.offered, session.balloon.settings.layout
    needed = [number for number, role in enumerate(queue_roles(offered, layout)) if role]
    if have > needed[-1]:
        return None
    return (
        f"the front-end has {have} of the {needed[-1] + 1} queues of what is offered, "
        f"and a driver that takes all of it fails; with QEMU: num_vqs={needed[-1] + 1}"
    )


def _lacks_config(session: Session) -> str | None:
    """Pages come, but not the word of how many: the front-end's space ends before it."""
    gives_pages = session.balloon.counters.inflate_messages > session.inflate_messages_before
    if not gives_pages or not 0 < session.config_end < ACTUAL.stop:
        return None
    balloon = session.balloon
    stage = balloon.request.stage(balloon.actual_pages, running=not balloon.queues.are_stopped)
    if stage is not Stage.STALLED:  # it may be about to write
        return None
    return (
        f"the guest gives pages but never says how many: the front-end's configuration space has "
        f"{session.config_end} bytes; with QEMU: config_size={CONFIG_BYTES}"
    )
