"""How oVirt's MOM sizes guests, from its published policy: each by itself, by the host's free part.

Below a fifth of the host's memory free everybody shrinks, a 20th of what it has at a time, and
nobody grows; above it everybody grows likewise.  All inputs are means of the last ten.
Source: vdsm's 02-balloon.policy, behaviour only.  Units: bytes, shares of 1.
"""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["LOOKS", "MomVm", "next_size"]

LOOKS: Final = 10  #: of which the means are
_PRESSURE: Final = 0.20
_CRITICAL: Final = 0.05
_STEP: Final = 0.05
_DEAD_BAND: Final = 0.0025


class MomVm(NamedTuple):
    """One VM; means but for what it has."""

    least_bytes: int
    most_bytes: int
    has_bytes: int
    mean_has_bytes: float
    mean_free_bytes: float  #: the guest's free memory: its page cache counts as used


def next_size(one: MomVm, host_free_share: float) -> int:
    """What it is asked to keep now; what it has, if that is not to change."""
    if one.has_bytes < one.least_bytes:
        return one.least_bytes
    used_bytes = one.mean_has_bytes - one.mean_free_bytes
    if host_free_share < _PRESSURE:
        part = host_free_share
        if host_free_share <= _CRITICAL:
            part = host_free_share - _CRITICAL
        least = max(one.least_bytes, used_bytes + part * one.has_bytes)
        size = int(max(one.has_bytes * (1 - _STEP), least))
        is_due = size <= one.has_bytes
    else:
        least = max(one.least_bytes, used_bytes + _PRESSURE * one.has_bytes)
        size = int(min(one.most_bytes, max(one.has_bytes * (1 + _STEP), least)))
        is_due = True
    if is_due and abs(size - one.has_bytes) > one.has_bytes * _DEAD_BAND:
        return size
    return one.has_bytes
