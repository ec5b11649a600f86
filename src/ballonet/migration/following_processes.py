"""The processes that receive what follows a guest: one, and another one whenever it was killed.

Their parent keeps what all of them need, and does nothing else; it has no threads when it forks.
"""

from __future__ import annotations

import os
import sys
from typing import Final

from ballonet.migration.arrival_journal import ArrivalStage
from ballonet.migration.arriving_guest import ArrivingGuest
from ballonet.migration.followed_guest import FollowedGuest

__all__ = ["follow"]

#: Whatever kills more of them than an operator would, will kill all.
_PROCESSES_MAX: Final = 32


def follow(guest: ArrivingGuest, followed: FollowedGuest) -> int:
    """One process after the other until all is received; the exit code of the last one."""
    for number in range(_PROCESSES_MAX):
        pid = os.fork()
        if not pid:
            os._exit(_work(followed, is_first=not number))
        if not number:
            guest.answers.leave()  # else nobody would notice that the one that has it is gone
        _, status = os.waitpid(pid, 0)
        if followed.journal.stage is ArrivalStage.LOADING:  # so the source has the guest
            followed.release()
            return os.EX_SOFTWARE
        if os.WIFEXITED(status):
            return os.WEXITSTATUS(status)
    return os.EX_SOFTWARE


def _work(followed: FollowedGuest, *, is_first: bool) -> int:
    """In the new process: it must never go on as the old one."""
    try:
        return followed.work(is_first=is_first)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return os.EX_SOFTWARE
