"""Rounds of observations for tests, without any machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ballonet.agent.round import Round
from ballonet.vms.device_info import DeviceInfo, parse_device_info
from ballonet.vms.discovery import Found
from ballonet.vms.observation import Aged, MachineId, Observation
from ballonet.vms.sighting import Sighting
from ballonet.vms.this_host import HostLook

PERIOD_S: Final = 2.0
HOST: Final = HostLook(0.0, 64 << 30, 32 << 30, 0, 0, None, None)


def machine(
    name: str,
    at_s: float = 0.0,
    *,
    kind: str = "qemu",
    pid: int | None = 7,
    why_not: str = "",
    statistics: Mapping[str, int] | None = None,
    age_s: float | None = 0.0,
    **look: Any,  # noqa: ANN401 - fields of an observation
) -> Found:
    """One machine, as it is seen."""
    who = MachineId(kind, name, f"/run/{kind}/{name}", pid)
    aged = {key: Aged(value, age_s) for key, value in (statistics or {}).items()}
    return Found(Sighting(who, who.uri), Observation(who, at_s, statistics=aged, **look), why_not)


def device(**members: object) -> DeviceInfo:
    """What our own device tells."""
    return parse_device_info({key.replace("_", "-"): value for key, value in members.items()})


def round_of(*found: Found, number: int = 1, ended_s: float = 0.0, problem: str = "") -> Round:
    """One round, of this host."""
    return Round(number, ended_s, 1e9 + ended_s, 0.01, PERIOD_S, found, HOST, problem)
