"""Requests by which the driver reads and writes its configuration, and hears of changes."""

from __future__ import annotations

from typing import Final

from ballonet.vhost_user.messages import ConfigAccess, Message, Request
from ballonet.vhost_user.session import Session

__all__ = ["HANDLERS"]


def get_config(session: Session, message: Message) -> bytes:
    """The driver reads its configuration."""
    access = ConfigAccess.parse(message.payload)
    _note_access(session, access)
    data = session.balloon.read_config(access.offset, len(access.data))
    return access._replace(data=data).pack()


def set_config(session: Session, message: Message) -> None:
    """The driver writes its configuration; what it may not write is ignored."""
    access = ConfigAccess.parse(message.payload)
    _note_access(session, access)
    session.balloon.write_config(access.offset, access.data)


def set_backend_req_fd(session: Session, message: Message) -> None:
    """A channel for messages of our own."""
    session.fds.set_channel(message.fds[0])


def _note_access(session: Session, access: ConfigAccess) -> None:
    session.config_end = max(session.config_end, access.offset + len(access.data))


HANDLERS: Final = {
    Request.GET_CONFIG: get_config,
    Request.SET_CONFIG: set_config,
    Request.SET_BACKEND_REQ_FD: set_backend_req_fd,
}
