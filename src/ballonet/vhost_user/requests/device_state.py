"""Requests that carry what the device knows of its guest to another device.

The rings stand still meanwhile.  A state goes over a descriptor of the front-end, beside the
messages; the question whether all went well is answered when the transfer has ended, for which the
connection sees to it that it is not asked before.
Source: QEMU docs/interop/vhost-user.rst "Migrating back-end state".
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from ballonet.device.moved_state import MovedState, moved_state_of, take_over
from ballonet.errors import SessionError
from ballonet.vhost_user.messages import U64, Message, Request
from ballonet.vhost_user.session import Session

__all__ = ["HANDLERS", "REFUSALS"]

_DIRECTION_AND_PHASE: Final = Struct("=II")
_SAVE, _LOAD = 0, 1
_STOPPED = 0  # the one phase there is
#: Bits of the answer: an error, and that the front-end's descriptor is used, not one of ours.
_ERROR, _NO_FD = 1, 1 << 8


def set_device_state_fd(session: Session, message: Message) -> bytes:
    """Begin to send what is known, or to receive it; nothing of it is waited for."""
    direction, phase = _DIRECTION_AND_PHASE.unpack(message.payload)
    if phase != _STOPPED:
        raise SessionError(message.name, f"phase {phase} is not known")
    _check_stopped(session, message)
    if direction == _SAVE:
        session.fds.send_state(message.fds[0], moved_state_of(session.balloon).pack())
    elif direction == _LOAD:
        session.fds.receive_state(message.fds[0])
        session.is_loading = True
    else:
        raise SessionError(message.name, f"direction {direction} is neither 0 nor 1")
    return U64.pack(_NO_FD)


def check_device_state(session: Session, message: Message) -> bytes:
    """The transfer has ended: tell how, and go on with the guest that came with it."""
    is_loading, session.is_loading = session.is_loading, False
    blob = session.fds.state_outcome()
    if is_loading:
        _check_stopped(session, message)
        take_over(session.balloon, MovedState.parse(blob))
    return U64.pack(0)


def _check_stopped(session: Session, message: Message) -> None:
    if not session.balloon.queues.are_stopped:
        raise SessionError(message.name, "rings run")


HANDLERS: Final = {
    Request.SET_DEVICE_STATE_FD: set_device_state_fd,
    Request.CHECK_DEVICE_STATE: check_device_state,
}
#: Their answers have room for a refusal.
REFUSALS: Final = {
    Request.SET_DEVICE_STATE_FD: U64.pack(_NO_FD | _ERROR),
    Request.CHECK_DEVICE_STATE: U64.pack(_ERROR),
}
