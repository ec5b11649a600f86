"""Requests about guest memory, and about the log of what is written to it."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from ballonet.balloon.facts import GuestChanged
from ballonet.memory.regions import REGIONS_MAX, Region
from ballonet.vhost_user.messages import (
    U64,
    LogArea,
    Message,
    Request,
    parse_mem_table,
    parse_single_region,
)
from ballonet.vhost_user.session import Session
from ballonet.vhost_user.vring_table import ALL_QUEUES

__all__ = ["HANDLERS"]


def set_mem_table(session: Session, message: Message) -> None:
    """Other memory than before."""
    regions = [_with_page_size(session, region) for region in parse_mem_table(message)]
    session.balloon.inflation.flush()
    with session.vrings.paused(*ALL_QUEUES):
        session.memory.replace(regions, message.fds)
    session.balloon.observers.tell(GuestChanged())


def get_max_mem_slots(_: Session, __: Message) -> bytes:
    """How many regions may be added."""
    return U64.pack(REGIONS_MAX)


def add_mem_reg(session: Session, message: Message) -> None:
    """One more region."""
    session.balloon.inflation.flush()
    with session.vrings.paused(*ALL_QUEUES):
        region = _with_page_size(session, parse_single_region(message))
        session.memory.add(region, message.fds[0])
    session.balloon.observers.tell(GuestChanged())


def rem_mem_reg(session: Session, message: Message) -> None:
    """One region less."""
    session.balloon.inflation.flush()
    with session.vrings.paused(*ALL_QUEUES):
        session.memory.remove(parse_single_region(message))
    session.balloon.observers.tell(GuestChanged())


def set_log_base(session: Session, message: Message) -> bytes:
    """Where to mark what the device writes."""
    session.fds.set_log(message.fds[0], LogArea.parse(message.payload))
    return U64.pack(0)


def _with_page_size(session: Session, region: Region) -> Region:
    return replace(region, page_bytes=session.balloon.settings.host_page_bytes)


HANDLERS: Final = {
    Request.SET_MEM_TABLE: set_mem_table,
    Request.GET_MAX_MEM_SLOTS: get_max_mem_slots,
    Request.ADD_MEM_REG: add_mem_reg,
    Request.REM_MEM_REG: rem_mem_reg,
    Request.SET_LOG_BASE: set_log_base,
}
