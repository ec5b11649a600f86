"""One round: what was seen of all machines, and of the host, at about one moment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ballonet.vms.discovery import Found
from ballonet.vms.this_host import HostLook

__all__ = ["Round", "Taker"]


@dataclass(frozen=True, slots=True)
class Round:
    """Units: seconds; moments are of a clock that never goes back, unless said otherwise."""

    number: int  #: the first is 1
    ended_s: float
    ended_wall_s: float  #: the same moment, as a time of day
    duration_s: float
    period_s: float  #: to the next one
    found: tuple[Found, ...]  #: by kind and name
    host: HostLook
    problem: str = ""  #: why it is not known which machines run; `found` are those known before


#: Is told each round as it ends, on the loop's thread; must not wait for anything.
Taker = Callable[[Round], None]
