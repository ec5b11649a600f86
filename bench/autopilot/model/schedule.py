"""What programs in a guest do: when they want how much memory, how fast, and which cache they read.

Kinds of guests are those of part A's six: idle, web with a leak, bursts with and without swap, a
build's saw-tooth, a reader with a hot set.
Units: seconds, shares of the guest's memory, MiB/s.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

__all__ = ["BURSTS", "KINDS", "Schedule", "Wish"]


@dataclass(frozen=True, slots=True)
class Wish:
    """From a moment on."""

    at_s: float
    anon_share: float  #: memory of programs
    mib_per_s: float  #: how fast it is taken
    hot_share: float = 0.0  #: of the disk, read again and again
    read_mib_per_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Schedule:
    """One guest's day."""

    kind: str
    has_swap: bool
    wishes: tuple[Wish, ...]


def _idle(dice: random.Random, _length_s: float) -> Schedule:
    return Schedule("idle", has_swap=True, wishes=(Wish(0, dice.uniform(0.02, 0.06), 20),))


def _web(dice: random.Random, length_s: float) -> Schedule:
    wishes, share, at_s = [], dice.uniform(0.08, 0.14), 0.0
    while at_s < length_s:
        wishes.append(Wish(at_s, min(0.6, share), 20, 0.05, 2))
        share += dice.uniform(0.0, 0.02)  # the leak
        at_s += dice.uniform(3, 8)
    return Schedule("web", has_swap=True, wishes=tuple(wishes))


def _bursts(dice: random.Random, length_s: float, *, has_swap: bool) -> Schedule:
    wishes, at_s = [Wish(0, 0.06, 20)], dice.uniform(6, 25)
    while at_s < length_s:
        wishes.append(Wish(at_s, dice.uniform(0.45, 0.80), dice.uniform(40, 160)))
        at_s += dice.uniform(10, 22)
        wishes.append(Wish(at_s, 0.06, 20))
        at_s += dice.uniform(20, 45)
    return Schedule("burst with swap" if has_swap else "burst", has_swap, tuple(wishes))


def _build(dice: random.Random, length_s: float) -> Schedule:
    wishes, at_s = [Wish(0, 0.05, 20)], dice.uniform(2, 6)
    while at_s < length_s:
        for share in (0.15, 0.25, 0.38):
            wishes.append(Wish(at_s, share * dice.uniform(0.9, 1.2), 60, 0.1, 10))
            at_s += dice.uniform(2, 5)
        wishes.append(Wish(at_s, 0.06, 60, 0.1, 10))
        at_s += dice.uniform(1, 4)
    return Schedule("build", has_swap=True, wishes=tuple(wishes))


def _reader(dice: random.Random, _length_s: float) -> Schedule:
    return Schedule(
        "reader", has_swap=True, wishes=(Wish(0, 0.05, 20, dice.uniform(0.25, 0.4), 60),)
    )


def _without_swap(dice: random.Random, length_s: float) -> Schedule:
    return _bursts(dice, length_s, has_swap=False)


def _with_swap(dice: random.Random, length_s: float) -> Schedule:
    return _bursts(dice, length_s, has_swap=True)


Kind = Callable[[random.Random, float], Schedule]

BURSTS: Final[Kind] = _without_swap
#: In the order in which guests get them.
KINDS: Final[tuple[Kind, ...]] = (
    _idle,
    _web,
    _with_swap,
    _without_swap,
    _build,
    _reader,
)
