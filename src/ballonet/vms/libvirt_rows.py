"""What libvirt tells of domains, asked so that one whose QEMU hangs holds up no other.

libvirt holds a lock on a domain while its QEMU is asked, and whoever asks next waits for it.  So
domains that are locked are left out, and a question for all of them that is held up is asked again
beside itself: what holds it up is locked then.
Units: seconds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from ballonet.errors import MonitorError
from ballonet.vms.find_libvirt import domains_at
from ballonet.vms.libvirt_api import (
    STATS_ACTIVE,
    STATS_BALLOON,
    STATS_NOWAIT,
    STATS_STATE,
    Connection,
    Domain,
)
from ballonet.vms.libvirt_calls import LibvirtCalls, missing_if_gone
from ballonet.vms.libvirt_domain import (
    NO_BALLOON,
    BalloonElement,
    DomainRecord,
    job_in_words,
    parse_actual,
    parse_balloon,
    parse_record,
    silence_of,
)
from ballonet.vms.observation import MachineId
from ballonet.vms.processes import processes

__all__ = ["Row", "all_rows", "exact_row", "job_of"]

_WANTED: Final = STATS_STATE | STATS_BALLOON
#: A question that takes longer is held up, and so many are asked beside each other.
_HELD_UP_S: Final = 1.0
_ASKED_MOST: Final = 5
#: For so long somebody else's question is waited for.
_LOCKED_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Row:
    """What was told of one domain."""

    name: str
    record: DomainRecord
    balloon: BalloonElement
    problem: str | None


#: With the domains whose processes are known, by name.
_Told = tuple[Sequence[Row], Mapping[str, MachineId]]


async def all_rows(uri: str) -> _Told:
    """Of every domain of a connection that runs. Raises: MonitorError."""
    asked: list[asyncio.Task[_Told]] = []
    try:
        for _ in range(_ASKED_MOST):
            asked.append(asyncio.create_task(_ask_for_all(uri)))
            done, _waiting = await asyncio.wait(
                asked, timeout=_HELD_UP_S, return_when=asyncio.FIRST_COMPLETED
            )
            if done:
                return done.pop().result()
        raise MonitorError(f"libvirtd does not answer within {_HELD_UP_S * _ASKED_MOST:.0f} s")
    finally:
        for one in asked:
            one.cancel()
        await asyncio.gather(*asked, return_exceptions=True)


async def _ask_for_all(uri: str) -> _Told:
    async with LibvirtCalls(uri) as libvirt:
        return await libvirt.call(
            lambda connection: (_rows(connection), domains_at(uri, processes()))
        )


def _rows(connection: Connection) -> list[Row]:
    """Of all that run; those that end meanwhile are left out."""
    found = []
    for domain, values in connection.getAllDomainStats(_WANTED, STATS_ACTIVE | STATS_NOWAIT):
        with missing_if_gone():
            found.append(_row_of(connection, domain, values))
    return found


def exact_row(connection: Connection, domain: Domain) -> Row:
    """Of one, with the size that QEMU tells now: in its row is that of its newest event."""
    told = connection.domainListGetStats([domain], _WANTED, STATS_NOWAIT)
    if not told:
        raise MonitorError("it is gone")
    row = _row_of(connection, domain, told[0][1])
    actual_bytes = parse_actual(domain.memoryStats()) if row.record.is_whole else None
    if actual_bytes is None:
        return row
    return replace(row, record=replace(row.record, actual_bytes=actual_bytes))


def _row_of(connection: Connection, domain: Domain, values: Mapping[str, object]) -> Row:
    record = parse_record(values)
    if not record.is_whole:  # somebody else may ask it at this very moment
        time.sleep(_LOCKED_S)
        for _, again in connection.domainListGetStats([domain], _WANTED, STATS_NOWAIT):
            record = parse_record(again)
    balloon = parse_balloon(domain.XMLDesc())
    problem = record.problem
    if problem is None:
        problem = job_of(domain) if record.is_whole else silence_of(domain.controlInfo())
    if problem is None and not balloon.is_there:
        problem = NO_BALLOON
    return Row(domain.name(), record, balloon, problem)


def job_of(domain: Domain) -> str | None:
    """What libvirt does with it that takes long; of one whose QEMU hangs this may not be asked."""
    return job_in_words(domain.jobStats().get("operation"))
