"""All guests of one of our hosts, asked in one question of the host's own monitor.

Every figure of a guest is the one that its own monitor tells; that monitor is not connected to.
Units: seconds.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from ballonet.errors import MonitorError
from ballonet.host.directory import CONTROL_NAME
from ballonet.vms.device_info import parse_device_info
from ballonet.vms.figures import with_device, with_statistics
from ballonet.vms.foreign_commands import GUEST_STATS, POLL_INTERVAL
from ballonet.vms.guest_stats import GuestStats, parse_guest_stats
from ballonet.vms.observation import MachineId, Observation
from ballonet.vms.qmp_monitor import QmpMonitor, connected
from ballonet.vms.reply import integer, member, optional, printable

__all__ = ["change_polling", "find_guests", "observation_of", "observe_all"]

_KIND: Final = "ballonet"
_LIST: Final = "x-ballonet-query-guests"
_OBSERVE: Final = "x-ballonet-observe-guests"
_POLL: Final = "x-ballonet-poll-guests"
#: What a guest that tells nothing is to be told of.
_WHY_NOT: Final = {
    "unresponsive": "the process of its device does not answer",
    "restarting": "the process of its device has ended, and is started again",
    "ending": "it is being removed",
}


async def find_guests(directory: Path) -> tuple[list[MachineId], bool]:
    """Who there is, and whether one question is enough for all. Raises: MonitorError."""
    async with _connected(str(directory)) as monitor:
        found = [_who(row, _LIST) for row in _rows(await monitor.execute(_LIST), _LIST)]
        return found, _OBSERVE in await monitor.own_commands()


async def observe_all(place: str) -> Mapping[str, Observation | str]:
    """Every guest of the host of that directory, by name; or why it tells nothing.

    Raises: MonitorError.
    """
    async with _connected(place) as monitor:
        reply = await monitor.execute(_OBSERVE)
    now_s = time.monotonic()
    looks: dict[str, Observation | str] = {}
    for row in _rows(reply, _OBSERVE):
        who = _who(row, _OBSERVE)
        try:
            looks[who.name] = observation_of(who, row, now_s)
        except MonitorError as error:
            looks[who.name] = str(error)
    return looks


def observation_of(who: MachineId, row: Any, now_s: float) -> Observation | str:  # noqa: ANN401 - whatever was answered
    """What a row tells that came at `now_s`, or why it tells nothing. Raises: MonitorError."""
    state = member(row, "state", str, _OBSERVE)
    if state != "running":
        return _WHY_NOT.get(state, printable(state))
    age_s = member(row, "age", float, _OBSERVE)
    paused = member(row, "paused", bool, _OBSERVE)
    info = parse_device_info(row)
    look = with_device(Observation(who, now_s - age_s, paused=paused), info)
    if info.ram_bytes is None:
        return look  # nothing can be asked of a guest that is not there
    sample = member(row, GUEST_STATS, dict, _OBSERVE)
    came = sample.get("last-update") is not None
    stats = parse_guest_stats(sample) if came else GuestStats(None, {})
    return with_statistics(look, stats, integer(row, POLL_INTERVAL, _OBSERVE))


async def change_polling(
    place: str, names: Collection[str], interval_s: int, instead_of_s: int
) -> Collection[str]:
    """Have those guests asked for statistics so often; returns who is.

    Who was not asked every `instead_of_s` goes on as before. Raises: MonitorError.
    """
    async with _connected(place) as monitor:
        reply = await monitor.execute(
            _POLL, interval=interval_s, instead_of=instead_of_s, names=sorted(names)
        )
    return [one for one in _rows(reply, _POLL) if isinstance(one, str)]


@asynccontextmanager
async def _connected(place: str) -> AsyncIterator[QmpMonitor]:
    async with connected(Path(place) / CONTROL_NAME) as monitor:
        yield monitor


def _rows(reply: object, command: str) -> list[Any]:
    """Raises: MonitorError."""
    if not isinstance(reply, list):
        raise MonitorError(f"the host answers {command} without a list")
    return reply


def _who(row: object, command: str) -> MachineId:
    """Raises: MonitorError."""
    name, path = member(row, "name", str, command), member(row, "qmp", str, command)
    return MachineId(_KIND, printable(name), path, optional(row, "pid", int, command))
