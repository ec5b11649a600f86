"""From a message of the front-end to the function that obeys it, and the answer it is owed.

Source: QEMU docs/interop/vhost-user.rst "Communication".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from ballonet.balloon.facts import MessageReceived
from ballonet.errors import SessionError, WireError
from ballonet.vhost_user.messages import (
    RULES,
    U64,
    Message,
    ProtocolFeature,
    Request,
    VringState,
    check_shape,
    pack_message,
)
from ballonet.vhost_user.requests import (
    configuration,
    device_state,
    guest_memory,
    negotiation,
    vrings,
)
from ballonet.vhost_user.session import Session

__all__ = ["ACCESSES", "dispatch", "refusal"]

#: What a request is answered with; None: nothing but an acknowledgement, if that is asked for.
Handler = Callable[[Session, Message], bytes | None]
_HANDLERS: Final[Mapping[Request, Handler]] = {
    **negotiation.HANDLERS,
    **guest_memory.HANDLERS,
    **vrings.HANDLERS,
    **configuration.HANDLERS,
    **device_state.HANDLERS,
}
#: Told of as what the driver reads and writes, unless they make no sense.
ACCESSES: Final = frozenset({Request.GET_CONFIG, Request.SET_CONFIG})
#: Messages that begin with a queue and a number.
_WITH_QUEUE: Final = frozenset(
    {
        Request.SET_VRING_NUM,
        Request.SET_VRING_BASE,
        Request.GET_VRING_BASE,
        Request.SET_VRING_ENABLE,
    }
)
_STATE_BYTES: Final = 8


def dispatch(session: Session, message: Message) -> bytes | None:
    """Obey one message; returns what is to be sent back, if anything.

    Raises: WireError, PeerError, SystemCallError; nothing has changed then, except that what was
    set stays set if only a ring cannot run with it.
    """
    want_details = session.balloon.observers.want_details
    if want_details and message.code not in ACCESSES:
        _tell(session, message)
    try:
        return _answer(session, message)
    except WireError:
        if want_details and message.code in ACCESSES:
            _tell(session, message)
        raise


def _answer(session: Session, message: Message) -> bytes | None:
    rule = check_shape(message)
    if rule.needs & ~session.protocol:
        raise SessionError(message.name, f"{ProtocolFeature(rule.needs)!r} not negotiated")
    answer = _HANDLERS[message.code](session, message)  # type: ignore[index]
    if answer is not None:
        return pack_message(message.code, answer, reply=True)
    if message.need_reply and session.acknowledges:
        return pack_message(message.code, U64.pack(0), reply=True)
    return None


def refusal(session: Session, message: Message) -> bytes | None:
    """What tells the front-end that its message was refused; None if it does not wait to be told.

    One that waits for an answer of another kind cannot be told, unless that has room for it.
    """
    answer = device_state.REFUSALS.get(message.code)  # type: ignore[call-overload]
    if answer is not None and session.protocol & ProtocolFeature.DEVICE_STATE:
        return pack_message(message.code, answer, reply=True)
    has_answer = message.code in RULES and RULES[message.code].replies
    if not message.need_reply or not session.acknowledges or has_answer:
        return None
    return pack_message(message.code, U64.pack(1), reply=True)


def _tell(session: Session, message: Message) -> None:
    """Say what came, whole or not: its content has not been checked yet."""
    size = len(message.payload)
    arguments: dict[str, object] = {"fds": len(message.fds)} if message.fds else {}
    if message.code in ACCESSES:
        arguments["bytes"] = size
    if message.code in _WITH_QUEUE and size == _STATE_BYTES:
        queue, number = VringState.parse(message.payload)
        arguments |= {"queue": queue, "value": number}
    session.balloon.observers.tell_detail(MessageReceived(message.name, arguments))
