"""How much processor time the clients of one guest's monitor may take from its device.

Theory of operation.  Each client has an account, which earns a share of a processor, saves up a
burst at most, and pays for the client's commands.  A client in debt waits until it has earned its
debt; all that are in debt at one time earn one share together, so that many take no more from the
device than one.  Who is not in debt never waits, whatever the others do.
Not here: waiting (clients.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

__all__ = ["BURST_S", "SHARE", "WAIT_S_MAX", "Account", "CpuBudget"]

SHARE: Final = 0.05
BURST_S: Final = 0.05
#: So that the end is not far when the monitor ends.
WAIT_S_MAX: Final = 0.5

Seconds = Callable[[], float]


class CpuBudget:
    """The budget of one guest's monitor."""

    def __init__(self, now_s: Seconds = time.monotonic, cpu_s: Seconds = time.thread_time) -> None:
        """`cpu_s`: processor time of the thread that serves the clients."""
        self.now_s, self.cpu_s = now_s, cpu_s
        self._debtors: set[Account] = set()
        self._each_s = 0.0  # what each who was in debt all the time has earned
        self._settled_s = now_s()

    def account(self) -> Account:
        """For one more client."""
        return Account(self)

    def each_s(self) -> float:
        """What each debtor has earned until now; only differences count."""
        now_s = self.now_s()
        if self._debtors:
            self._each_s += (now_s - self._settled_s) * SHARE / len(self._debtors)
        self._settled_s = now_s
        return self._each_s

    def join(self, account: Account) -> int:
        """Somebody is in debt, perhaps already; returns how many are."""
        self.each_s()
        self._debtors.add(account)
        return len(self._debtors)

    def leave(self, account: Account) -> None:
        """Somebody is in debt no more, or was not."""
        self.each_s()
        self._debtors.discard(account)


class Account:
    """What one client has left."""

    def __init__(self, budget: CpuBudget) -> None:
        self._budget = budget
        self._credit_s = BURST_S
        self._in_debt = False
        self._settled_s, self._each_s = budget.now_s(), budget.each_s()

    @contextmanager
    def paying(self) -> Iterator[None]:
        """Pay for what is done in the block, which waits for nothing."""
        begin_s = self._budget.cpu_s()
        try:
            yield
        finally:
            self.spend(self._budget.cpu_s() - begin_s)

    def spend(self, cpu_s: float) -> None:
        """Pay for so much processor time."""
        self._settle()
        self._credit_s -= cpu_s

    def wait_s(self) -> float:
        """Seconds to wait now before more is done for this client; ask again then."""
        self._settle()
        if self._credit_s >= 0:
            self.close()
            return 0.0
        self._in_debt = True
        return min(WAIT_S_MAX, -self._credit_s * self._budget.join(self) / SHARE)

    def used_s(self) -> float:
        """What a client who leaves now has used of its burst, and not earned again."""
        self._settle()
        return BURST_S - self._credit_s

    def close(self) -> None:
        """In debt no more, or gone; safe to call again."""
        self._in_debt = False
        self._budget.leave(self)

    def _settle(self) -> None:
        now_s, each_s = self._budget.now_s(), self._budget.each_s()
        alone_s = (now_s - self._settled_s) * SHARE
        earned_s = each_s - self._each_s if self._in_debt else alone_s
        self._credit_s = min(BURST_S, self._credit_s + earned_s)
        self._settled_s, self._each_s = now_s, each_s
