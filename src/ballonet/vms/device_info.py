"""What only our own device tells of itself: the reply of `x-ballonet-info`, checked.

A member that an older or a newer device does not send is None here.
Units: bytes, seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ballonet.errors import MonitorError
from ballonet.units import pages_to_bytes
from ballonet.vms.reply import integer, optional, printable

__all__ = ["STEPS", "DeviceInfo", "parse_device_info"]

_COMMAND: Final = "x-ballonet-info"
#: A request's steps, in their order.
STEPS: Final = ("asked", "sent", "read", "moved", "reached")


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """One moment of the device."""

    connected: bool  #: to a VMM
    has_driver: bool
    ram_bytes: int | None
    balloon_bytes: int | None
    target_bytes: int | None  #: to be in the balloon
    host_bytes: int | None  #: what the host holds for the guest, measured
    waiting_bytes: int | None  #: in the balloon, not dropped yet
    stage: str | None
    why: str | None
    problem: str | None  #: what is wrong with the front-end's or the guest's settings
    request_number: int | None
    request_age_s: Mapping[str, float | None]  #: since each of STEPS
    features: tuple[str, ...]
    stats: str | None
    stats_age_s: float | None
    poison_val: int | None
    hint_round: str | None
    inhibited: tuple[str, ...]
    broken: str | None
    counters: Mapping[str, int]

    @property
    def logical_bytes(self) -> int | None:
        """Memory less the balloon."""
        if self.ram_bytes is None or self.balloon_bytes is None:
            return None
        return max(0, self.ram_bytes - self.balloon_bytes)


def parse_device_info(reply: object) -> DeviceInfo:
    """Read the reply. Raises: MonitorError, if it is something else."""
    request = optional(reply, "request", dict, _COMMAND) or {}
    counters = optional(reply, "counters", dict, _COMMAND) or {}
    return DeviceInfo(
        connected=bool(optional(reply, "connected", bool, _COMMAND)),
        has_driver=bool(optional(reply, "running", bool, _COMMAND)),
        ram_bytes=_integer(reply, "ram"),
        balloon_bytes=_pages(reply, "actual-pages"),
        target_bytes=_pages(reply, "target-pages"),
        host_bytes=_integer(reply, "host-memory"),
        waiting_bytes=_integer(reply, "waiting"),
        stage=_text(reply, "stage"),
        why=_text(reply, "why"),
        problem=_text(reply, "problem"),
        request_number=_integer(request, "number"),
        request_age_s={step: _age(request, step) for step in STEPS},
        features=_texts(reply, "features"),
        stats=_text(reply, "stats"),
        stats_age_s=_number(reply, "stats-age"),
        poison_val=_integer(reply, "poison-val"),
        hint_round=_text(reply, "hint-round"),
        inhibited=_texts(reply, "inhibited"),
        broken=_text(reply, "broken"),
        counters={str(name).replace("-", "_"): _integer(counters, name) or 0 for name in counters},
    )


def _integer(reply: Any, name: str) -> int | None:  # noqa: ANN401 - whatever was answered
    return None if optional(reply, name, int, _COMMAND) is None else integer(reply, name, _COMMAND)


def _number(reply: Any, name: str) -> float | None:  # noqa: ANN401
    if isinstance(reply, dict) and isinstance(reply.get(name), float):
        return float(reply[name])
    return _integer(reply, name)


def _pages(reply: Any, name: str) -> int | None:  # noqa: ANN401
    pages = _integer(reply, name)
    return None if pages is None else pages_to_bytes(pages)


def _age(request: Any, step: str) -> float | None:  # noqa: ANN401
    age_ms = _number(request, f"{step}-ms-ago")
    return None if age_ms is None else age_ms / 1000


def _text(reply: Any, name: str) -> str | None:  # noqa: ANN401
    text = optional(reply, name, str, _COMMAND)
    return printable(text) if text else None


def _texts(reply: Any, name: str) -> tuple[str, ...]:  # noqa: ANN401
    texts = optional(reply, name, list, _COMMAND) or []
    if not all(isinstance(one, str) for one in texts):
        raise MonitorError(f"the monitor answers {_COMMAND} without a proper {name!r}")
    return tuple(printable(one) for one in texts)
