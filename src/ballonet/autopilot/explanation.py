"""Why a VM was asked for what it was, or for nothing: a closed set of reasons, and their words.

The only place where they are put into words.  A verdict is of one VM in one round.
Units: in the names of its figures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from ballonet.autopilot.distress import Signal
from ballonet.autopilot.vm_state import VmState
from ballonet.units import format_bytes

__all__ = ["Figure", "Reason", "Verdict", "say", "say_signals"]


class Reason(Enum):
    """The value is the sentence; its braces name figures of the verdict."""

    # It gets memory.
    SUFFERS = "it suffers: {signals}"
    USE = "it uses {used_bytes}, and should have at least {use_bytes}"
    HIT = "it ran out of memory a moment ago, and may want {use_bytes}"
    GROWTH = (
        "its use has just risen by {rise_bytes}, to {used_bytes}: it may need {growth_bytes} soon"
    )
    PEAK = "it used {peak_use_bytes} of late, and may again"
    CACHE = "its cache is too small: with it, it needs {cache_bytes}"
    SURPLUS = "nobody else needs that"
    KEEP = "it is asked for no more: it needs {need_bytes}"
    STOP = "its balloon gave nothing for {stuck_s}: it is asked again in {retry_s}"
    BOOTING = "its kernel has just begun, and is to see all that it has"
    # It gives memory.
    FOR_OTHERS = "it uses {used_bytes}, and others lack {lack_bytes}"
    FOR_HOST = "it uses {used_bytes}, and the VMs have {owed_bytes} more than the host can spare"
    FOR_POOL = "it uses {used_bytes}, and some memory is kept free for whoever needs it next"
    TO_HOST = "nobody needs that, and what nobody needs stays with the host"
    # It stays as it is.
    ENOUGH = "it has what it needs, {need_bytes}"
    WAITS = "it should have {lack_bytes} more, and nobody has that to spare yet"
    RESTS = "others lack {lack_bytes}, but it got something {raised_ago_s} ago"
    SUFFERED = "it suffered {suffered_ago_s} ago: nothing is taken from it for a while"
    UNKNOWN = "its guest has not said yet what it needs"
    STUCK = "it did not give what it was asked for: it is asked again in {retry_s}"
    STALE = "its guest has said nothing for {silent_s}: nothing is taken from it"
    REFUSED = "what its guest says cannot be: {refusal}; nothing is taken from it"
    LOST = "it cannot be reached: {note}"
    EXCLUDED = "it is left alone: {note}"
    GIVING = "it has still to give {pending_bytes}"


Figure = int | float | str
_MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was decided for one VM in one round."""

    vm: str
    at_s: float
    from_bytes: int  #: it was asked to keep that
    to_bytes: int  #: ... and is now
    state: VmState
    reason: Reason
    figures: Mapping[str, Figure] = field(default_factory=dict)

    @property
    def is_change(self) -> bool:
        """Something is to be done."""
        return self.from_bytes != self.to_bytes

    def __str__(self) -> str:
        because = say(self.reason, self.figures)
        if not self.is_change:
            return f"{self.vm} stays at {format_bytes(self.to_bytes)}: {because}"
        sizes = [format_bytes(one) for one in (self.from_bytes, self.to_bytes)]
        if sizes[0] == sizes[1]:
            sizes = [f"{one / _MIB:.1f} MiB" for one in (self.from_bytes, self.to_bytes)]
        return f"{self.vm} from {sizes[0]} to {sizes[1]}: {because}"


def say(reason: Reason, figures: Mapping[str, Figure]) -> str:
    """A reason with its figures, as a sentence."""
    return reason.value.format_map({name: _word(name, one) for name, one in figures.items()})


def _word(name: str, figure: Figure) -> str:
    if isinstance(figure, str):
        return figure
    if name.endswith("_bytes_per_s"):
        return f"{format_bytes(int(figure))}/s"
    if name.endswith("_bytes"):
        return format_bytes(int(figure))
    return f"{figure:.0f} s" if name.endswith("_s") else str(figure)


_SIGNS: Final[Mapping[Signal, str]] = {
    Signal.SCARCE: "it has only {0} available",
    Signal.OOM_KILL: "its kernel has killed {0} of its processes for want of memory",
    Signal.SELF_DEFLATED: "its kernel took {0} out of the balloon, or would have had to kill",
    Signal.SWAP_IN: "it reads {0} back from its swap",
    Signal.MAJOR_FAULTS: "it reads pages back from disk {0} times a second",
    Signal.STALLS: "its programs wait for memory {0} times a second",
    Signal.STALL_SHARE: "its programs wait for memory {0} % of the time",
}


def say_signals(signals: Mapping[Signal, int]) -> str:
    """What a guest suffers from, in words."""
    return ", ".join(
        _SIGNS[one].format(_word(one.value, figure)) for one, figure in signals.items()
    )
