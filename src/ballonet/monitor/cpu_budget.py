"""How much processor time the clients of one guest's monitor may take from its device.

Theory of operation.  Each client has an account, which earns a share of a processor, saves up a
burst at most, and pays for the client's commands.  A client in debt waits until it has earned its
debt; all that are in debt at one time earn one share together, so that many take no more from the
device than one.  Who is not in debt never waits, whatever the others do.

All together earn no more than a few shares, and have no more than a few bursts to begin with:
fifty clients that each kept just out of debt took more than a processor.
Not here: waiting (clients.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

__all__ = ["BURST_S", "FEW", "SHARE", "WAIT_S_MAX", "Account", "CpuBudget"]

SHARE: Final = 0.05
BURST_S: Final = 0.05
#: Of so many clients each has a share and a burst of its own; more have that of so many.
FEW: Final = 4
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
        self._alone_s = 0.0  # what each who was never in debt has earned
        self._accounts = 0
        self._bursts_s = FEW * BURST_S
        self._settled_s = now_s()

    def account(self) -> Account:
        """For one more client."""
        self._settle()
        self._accounts += 1
        burst_s = min(BURST_S, self._bursts_s)
        self._bursts_s -= burst_s
        return Account(self, burst_s)

    def end_account(self, burst_s: float) -> None:
        """A client has left, and has not used so much of what it began with."""
        self._settle()
        self._accounts -= 1
        self._bursts_s = min(FEW * BURST_S, self._bursts_s + burst_s)

    def alone_s(self) -> float:
        """What each who is not in debt has earned until now; only differences count."""
        self._settle()
        return self._alone_s

    def each_s(self) -> float:
        """What each debtor has earned until now; only differences count."""
        self._settle()
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

    def _settle(self) -> None:
        now_s = self.now_s()
        share_s = (now_s - self._settled_s) * SHARE
        self._settled_s = now_s
        if self._debtors:
            self._each_s += share_s / len(self._debtors)
        self._alone_s += share_s * min(1.0, FEW / max(1, self._accounts))
        self._bursts_s = min(FEW * BURST_S, self._bursts_s + share_s)


class Account:
    """What one client has left."""

    def __init__(self, budget: CpuBudget, burst_s: float) -> None:
        self._budget = budget
        self._burst_s = self._credit_s = burst_s
        self._in_debt = False
        self._alone_s, self._each_s = budget.alone_s(), budget.each_s()

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

    def leave(self) -> float:
        """The client is gone; returns what it has used and not earned again."""
        self.close()
        self._settle()
        used_s = max(0.0, self._burst_s - self._credit_s)
        self._budget.end_account(max(0.0, self._burst_s - used_s))
        return used_s

    def close(self) -> None:
        """In debt no more; safe to call again."""
        self._in_debt = False
        self._budget.leave(self)

    def _settle(self) -> None:
        alone_s, each_s = self._budget.alone_s(), self._budget.each_s()
        earned_s = each_s - self._each_s if self._in_debt else alone_s - self._alone_s
        self._credit_s = min(BURST_S, self._credit_s + earned_s)
        self._alone_s, self._each_s = alone_s, each_s
