"""Requests that describe a queue, and start and stop its ring."""

from __future__ import annotations

from typing import Final

from ballonet.errors import SessionError
from ballonet.vhost_user.messages import Message, Request, VringAddresses, VringFd, VringState
from ballonet.vhost_user.session import Session
from ballonet.vhost_user.vring import FdKind, check_addresses, check_base, check_num

__all__ = ["HANDLERS"]


def set_vring_num(session: Session, message: Message) -> None:
    """How many entries a ring has."""
    queue, num = VringState.parse(message.payload)
    vring = session.vrings.get(message.name, queue)
    check_num(message.name, num, packed=session.vrings.may_be_packed)
    with session.vrings.paused(queue):
        vring.num = num


def set_vring_addr(session: Session, message: Message) -> None:
    """Where a ring lies; may be repeated while it runs."""
    addresses = VringAddresses.parse(message.payload)
    vring = session.vrings.get(message.name, addresses.queue)
    check_addresses(message.name, addresses, packed=session.vrings.is_packed)
    with session.vrings.paused(addresses.queue):
        vring.addresses = addresses


def set_vring_base(session: Session, message: Message) -> None:
    """Where in a ring to begin."""
    queue, base = VringState.parse(message.payload)
    vring = session.vrings.get(message.name, queue)
    check_base(message.name, base, packed=session.vrings.may_be_packed)
    with session.vrings.paused(queue):
        vring.base = base


def get_vring_base(session: Session, message: Message) -> bytes:
    """Stop a ring, and say where another device would go on; a held buffer is before that."""
    queue, _ = VringState.parse(message.payload)
    vring = session.vrings.get(message.name, queue)
    session.balloon.inflation.flush()
    session.vrings.detach(queue)
    vring.has_kick = vring.has_call = False
    session.fds.put_vring_fd(queue, FdKind.KICK, None)
    session.fds.put_vring_fd(queue, FdKind.CALL, None)
    return VringState(queue, vring.base).pack()


def set_vring_kick(session: Session, message: Message) -> None:
    """What tells of new chains."""
    queue, has_fd = VringFd.parse(message)
    vring = session.vrings.get(message.name, queue)
    if not has_fd:
        raise SessionError(message.name, "a ring without kicks would have to be polled")
    with session.vrings.paused(queue):
        session.fds.put_vring_fd(queue, FdKind.KICK, message.fds[0])
        vring.has_kick = True


def set_vring_call(session: Session, message: Message) -> None:
    """How to tell of used chains."""
    queue, has_fd = VringFd.parse(message)
    vring = session.vrings.get(message.name, queue)
    session.fds.put_vring_fd(queue, FdKind.CALL, message.fds[0] if has_fd else None)
    vring.has_call = has_fd


def set_vring_err(session: Session, message: Message) -> None:
    """How to tell of a broken ring."""
    queue, has_fd = VringFd.parse(message)
    session.vrings.get(message.name, queue)
    session.fds.put_vring_fd(queue, FdKind.ERR, message.fds[0] if has_fd else None)


def set_vring_enable(session: Session, message: Message) -> None:
    """Let a ring run, or pause it; its place is kept."""
    queue, enable = VringState.parse(message.payload)
    vring = session.vrings.get(message.name, queue)
    if enable > 1:
        raise SessionError(message.name, f"{enable} is neither 0 nor 1")
    if not enable:
        session.balloon.inflation.flush()
    # QEMU enables queues it never set up; those just stay as they are.
    with session.vrings.paused(queue):
        vring.enabled = bool(enable)


HANDLERS: Final = {
    Request.SET_VRING_NUM: set_vring_num,
    Request.SET_VRING_ADDR: set_vring_addr,
    Request.SET_VRING_BASE: set_vring_base,
    Request.GET_VRING_BASE: get_vring_base,
    Request.SET_VRING_KICK: set_vring_kick,
    Request.SET_VRING_CALL: set_vring_call,
    Request.SET_VRING_ERR: set_vring_err,
    Request.SET_VRING_ENABLE: set_vring_enable,
}
