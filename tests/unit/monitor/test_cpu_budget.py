"""Who waits for how long, with a clock and a processor that the test moves."""

from __future__ import annotations

import pytest

from ballonet.monitor.cpu_budget import BURST_S, FEW, SHARE, WAIT_S_MAX, Account, CpuBudget


class Machine:
    """A clock and a thread's processor time."""

    def __init__(self) -> None:
        self.now_s, self.cpu_s = 100.0, 5.0
        self.budget = CpuBudget(lambda: self.now_s, lambda: self.cpu_s)

    def work(self, account: Account, cpu_s: float) -> None:
        """Do something for a client."""
        with account.paying():
            self.cpu_s += cpu_s
            self.now_s += cpu_s

    def wait(self, *accounts: Account) -> float:
        """Let all of them wait until none is in debt; returns the seconds."""
        begin_s = self.now_s
        while waits := [wait_s for one in accounts if (wait_s := one.wait_s())]:
            assert max(waits) <= WAIT_S_MAX
            self.now_s += max(min(waits), 1e-4)
            assert self.now_s < begin_s + 1000 * WAIT_S_MAX, "a debt that is never paid"
        return self.now_s - begin_s


def test_an_ordinary_client_never_waits() -> None:
    machine = Machine()
    account = machine.budget.account()
    for _ in range(10_000):  # one millisecond of work, 40 times a second
        machine.work(account, 0.001)
        assert account.wait_s() == 0
        machine.now_s += 0.024


def test_a_client_that_floods_gets_its_share_and_no_more() -> None:
    machine = Machine()
    account = machine.budget.account()
    begin_s = machine.now_s
    for _ in range(1000):
        machine.work(account, 0.01)
        machine.wait(account)
    used_s, passed_s = 10.0, machine.now_s - begin_s
    assert used_s - BURST_S == pytest.approx(passed_s * SHARE, rel=0.01)


def test_an_ordinary_client_does_not_wait_for_one_that_floods() -> None:
    machine = Machine()
    rude, account = machine.budget.account(), machine.budget.account()
    for _ in range(100):
        machine.work(rude, 0.01)
        rude.wait_s()
        machine.work(account, 0.0001)
        assert account.wait_s() == 0


def test_many_that_flood_share_what_one_would_get() -> None:
    machine = Machine()
    crowd = [machine.budget.account() for _ in range(10)]
    begin_s, used_s = machine.now_s, 0.0
    due_s = dict.fromkeys(crowd, begin_s)
    while machine.now_s < begin_s + 200:
        one = min(crowd, key=lambda account: due_s[account])
        machine.now_s = max(machine.now_s, due_s[one])
        if not one.wait_s():
            machine.work(one, 0.01)
            used_s += 0.01
        due_s[one] = machine.now_s + max(one.wait_s(), 1e-4)
    passed_s = machine.now_s - begin_s
    assert used_s - FEW * BURST_S == pytest.approx(passed_s * SHARE, rel=0.1)


def test_so_many_who_come_at_once_have_no_more_to_begin_with_than_a_few() -> None:
    machine = Machine()
    crowd = [machine.budget.account() for _ in range(50)]
    used_s, too_much_s = 0.0, 2 * FEW * BURST_S
    while able := [account for account in crowd if not account.wait_s()]:
        for account in able:
            machine.work(account, 0.001)
            used_s += 0.001
        # With the last piece of each, and what was earned meanwhile.
        assert used_s < too_much_s


def test_many_that_keep_just_out_of_debt_take_no_more_than_a_few_shares() -> None:
    machine = Machine()
    crowd = [machine.budget.account() for _ in range(50)]
    used_s, begin_s = 0.0, machine.now_s
    while machine.now_s < begin_s + 15:
        for account in crowd:
            if not account.wait_s():
                machine.work(account, 0.0005)
                used_s += 0.0005
        machine.now_s += 0.001
    assert used_s - FEW * BURST_S < 15 * SHARE * FEW * 1.2


def test_who_comes_and_leaves_again_and_again_takes_no_burst_along() -> None:
    machine = Machine()
    for _ in range(50):
        account = machine.budget.account()
        machine.work(account, 0.0001)
        assert account.wait_s() == 0
        account.leave()


def test_a_client_that_has_left_is_no_debtor_and_says_what_it_used() -> None:
    machine = Machine()
    account = machine.budget.account()
    machine.work(account, 1.0)
    assert account.wait_s() == WAIT_S_MAX
    assert account.leave() == pytest.approx(1.0)
    other = machine.budget.account()
    machine.work(other, BURST_S + 0.01)
    assert machine.wait(other) == pytest.approx(0.01 / SHARE, rel=0.3)  # alone again
