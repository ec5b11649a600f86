"""Requests about what front-end, device and driver can do, and about the driver's status."""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import Final

from ballonet.balloon.facts import Negotiated
from ballonet.errors import SessionError
from ballonet.vhost_user.messages import (
    LOG_ALL,
    PROTOCOL_FEATURES_BIT,
    U64,
    Message,
    ProtocolFeature,
    Request,
)
from ballonet.vhost_user.session import Session
from ballonet.vhost_user.vring_table import ALL_QUEUES
from ballonet.virtio.features import Feature
from ballonet.virtio.queues import QUEUE_COUNT

__all__ = ["HANDLERS"]

_OFFERED_PROTOCOL: Final = int(reduce(or_, ProtocolFeature))
_STATUS_NEEDS_RESET: Final = 64


def get_features(session: Session, _: Message) -> bytes:
    """Every bit this device can do, vhost-user's own among them."""
    if session.protocol and not session.vrings.features & PROTOCOL_FEATURES_BIT:
        # User-Mode Linux up to 6.1 at least: its driver leaves, and the rings' memory with it.
        # It can neither disable its rings nor tell of a reset; this question is its barrier.
        session.reset()
    return U64.pack(int(session.balloon.settings.offered) | PROTOCOL_FEATURES_BIT | LOG_ALL)


def set_features(session: Session, message: Message) -> None:
    """What the driver accepted; may be repeated while rings run, with the log bit changed."""
    features, balloon = message.u64(), session.balloon
    unknown = Feature(0)
    for bit in Feature:
        if features & bit & ~int(balloon.settings.offered):
            unknown |= bit
    if unknown:
        raise SessionError(message.name, f"{unknown!r} was not offered")
    balloon.inflation.flush()
    with session.vrings.paused(*ALL_QUEUES):
        session.vrings.features = features
        balloon.negotiate(features)
    balloon.observers.tell(Negotiated(balloon.negotiated))


def get_protocol_features(_: Session, __: Message) -> bytes:
    """vhost-user's own bits."""
    return U64.pack(_OFFERED_PROTOCOL)


def set_protocol_features(session: Session, message: Message) -> None:
    """The ones the front-end uses; bits not offered are dropped."""
    session.protocol = message.u64() & _OFFERED_PROTOCOL


def get_queue_num(_: Session, __: Message) -> bytes:
    """How many queues there may be."""
    # All five, in use or not: User-Mode Linux compares with the slots, not with the queues.
    return U64.pack(QUEUE_COUNT)


def get_status(session: Session, _: Message) -> bytes:
    """The status last set, and whether the device needs a reset."""
    broken = _STATUS_NEEDS_RESET if session.balloon.queues.broken else 0
    return U64.pack(session.status | broken)


def set_status(session: Session, message: Message) -> None:
    """The status of the driver; 0 is a reset."""
    session.status = message.u64() & 0xFF
    if session.status == 0:
        reset_device(session, message)


def reset_device(session: Session, _: Message) -> None:
    """Virtio reset: rings stop, the target stays."""
    for vring in session.vrings.vrings:
        vring.enabled = False
    session.reset()


def ignore(_: Session, __: Message) -> None:
    """A message that changes nothing here."""


_R = Request
HANDLERS: Final = {
    _R.GET_FEATURES: get_features,
    _R.SET_FEATURES: set_features,
    _R.GET_PROTOCOL_FEATURES: get_protocol_features,
    _R.SET_PROTOCOL_FEATURES: set_protocol_features,
    _R.GET_QUEUE_NUM: get_queue_num,
    _R.GET_STATUS: get_status,
    _R.SET_STATUS: set_status,
    _R.RESET_DEVICE: reset_device,
    _R.SET_OWNER: ignore,
    _R.SET_LOG_FD: ignore,
    _R.RESET_OWNER: ignore,  # deprecated; front-ends that send it mean different things by it
}
