"""In which state a VM is to the autopilot: one table.

Units: none.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final

__all__ = ["MAY_GET", "MAY_GIVE", "TRANSITIONS", "VmEvent", "VmState", "next_state"]


class VmState(Enum):
    """What the autopilot may do with a VM."""

    UNKNOWN = "unknown"  #: no statistics yet: left as it is
    BOOT = "boot"  #: its kernel has just begun: nothing is taken, and it may have everything
    PROBE = "probe"  #: nobody has seen its balloon work: asked for little at a time
    STEADY = "steady"  #: it can give and get
    PRESSURE = "pressure"  #: it suffers: nothing is taken, and it is the first to get
    STUCK = "stuck"  #: it did not give what it was asked for: not asked for a while
    STALE = "stale"  #: its statistics have stopped: nothing is taken
    LOST = "lost"  #: it cannot be reached: what it has is counted
    EXCLUDED = "excluded"  #: somebody else decides: an operator, or who pauses or migrates it


class VmEvent(Enum):
    """What a round shows of a VM; of several that hold the first one counts."""

    NO_ANSWER = "no answer"
    LEFT_ALONE = "left alone"
    NEW_KERNEL = "new kernel"
    NO_STATISTICS = "no statistics"
    SUFFERS = "suffers"  #: ... or did a moment ago
    GAVE = "gave"
    NO_PROGRESS = "no progress"  #: ... or it is too early to try again
    RETRY = "retry"
    BOOTED = "booted"
    UNPROVEN = "unproven"  #: all is well, and nobody has seen its balloon work
    FINE = "fine"


_S, _E = VmState, VmEvent
#: event -> state -> next state; a state that is missing stays as it is.
TRANSITIONS: Final[Mapping[VmEvent, Mapping[VmState, VmState]]] = {
    _E.NO_ANSWER: dict.fromkeys(_S, _S.LOST),
    _E.LEFT_ALONE: dict.fromkeys(_S, _S.EXCLUDED),
    _E.NEW_KERNEL: dict.fromkeys(_S, _S.BOOT),
    _E.NO_STATISTICS: {
        _S.PROBE: _S.STALE,
        _S.STEADY: _S.STALE,
        _S.PRESSURE: _S.STALE,
        _S.LOST: _S.STALE,
        _S.EXCLUDED: _S.STALE,
    },
    _E.SUFFERS: dict.fromkeys(_S, _S.PRESSURE) | {_S.BOOT: _S.BOOT, _S.STUCK: _S.STUCK},
    _E.GAVE: dict.fromkeys(_S, _S.STEADY) | {_S.BOOT: _S.BOOT},
    _E.NO_PROGRESS: dict.fromkeys(_S, _S.STUCK) | {_S.BOOT: _S.BOOT},
    _E.RETRY: {_S.STUCK: _S.PROBE},
    _E.BOOTED: {_S.BOOT: _S.PROBE},
    _E.UNPROVEN: dict.fromkeys(_S, _S.PROBE) | {_S.BOOT: _S.BOOT, _S.STUCK: _S.STUCK},
    _E.FINE: dict.fromkeys(_S, _S.STEADY) | {_S.BOOT: _S.BOOT, _S.STUCK: _S.STUCK},
}
#: From these memory may be taken.
MAY_GIVE: Final = frozenset({_S.PROBE, _S.STEADY})
#: These may get more than they have.
MAY_GET: Final = frozenset({_S.BOOT, _S.PROBE, _S.STEADY, _S.PRESSURE, _S.STUCK, _S.STALE})


def next_state(state: VmState, event: VmEvent) -> VmState:
    """After one event."""
    return TRANSITIONS[event].get(state, state)
