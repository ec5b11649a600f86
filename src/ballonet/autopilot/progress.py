"""Whether a VM gives what it was asked for, and how fast.

Its balloon works for certain once memory has come back, or where one is seen that is not empty.
One that makes no progress is not asked again for 10 s, then 20, up to an hour, and then for little:
a driver that finds no memory tries for ever (F6: 18 hours at 16 processors), and a VM that is
movable now and stuck then makes its neighbours swing (F21).
Units: bytes (logical size), seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from ballonet.autopilot.constants import Constants

__all__ = ["Progress", "begin_progress", "follow_progress"]

_NEVER_S: Final = float("-inf")


@dataclass(frozen=True, slots=True)
class Progress:
    """What is remembered of one VM."""

    rate_bytes_per_s: float
    is_proven: bool = False
    marked_s: float | None = None  #: since then it is waited for; None: nothing is
    marked_bytes: int = 0  #: what it kept then
    failures: int = 0  #: one after the other
    retry_at_s: float = _NEVER_S
    has_given: bool = False  #: at this look
    is_stuck: bool = False  #: at this look

    def waits_for_retry(self, now_s: float) -> bool:
        """It is too early to ask it again."""
        return now_s < self.retry_at_s


def begin_progress(before: Progress, actual_bytes: int, now_s: float) -> Progress:
    """It has just been asked for more than it has given."""
    if before.marked_s is not None:
        return before
    return replace(before, marked_s=now_s, marked_bytes=actual_bytes)


def follow_progress(
    before: Progress,
    actual_bytes: int,
    pending_bytes: int,
    now_s: float,
    constants: Constants,
    *,
    is_empty: bool,
) -> Progress:
    """What is remembered after one more look.

    `pending_bytes` is what it has still to give; `is_empty`: there is nothing in its balloon.
    """
    still = before
    is_proven = before.is_proven or (not is_empty and not before.failures)
    if before.has_given or before.is_stuck or is_proven is not before.is_proven:
        still = replace(before, has_given=False, is_stuck=False, is_proven=is_proven)
    if before.marked_s is None:
        if pending_bytes <= constants.progress_bytes:
            return still
        return replace(still, marked_s=now_s, marked_bytes=actual_bytes)
    given_bytes = before.marked_bytes - actual_bytes
    seconds = now_s - before.marked_s
    if given_bytes >= constants.progress_bytes and seconds > 0:
        kept = constants.rate_memory
        rate = before.rate_bytes_per_s * kept + given_bytes / seconds * (1 - kept)
        goes_on = pending_bytes > constants.progress_bytes
        return Progress(
            rate,
            is_proven=True,
            marked_s=now_s if goes_on else None,
            marked_bytes=actual_bytes,
            has_given=True,
        )
    if pending_bytes <= constants.progress_bytes:
        return replace(still, marked_s=None)
    if seconds < constants.stuck_s:
        return still
    wait_s = min(constants.retry_s * 2.0**before.failures, constants.retry_most_s)
    return Progress(
        before.rate_bytes_per_s,
        failures=min(before.failures + 1, 30),
        retry_at_s=now_s + wait_s,
        is_stuck=True,
    )
