"""Waiting ends when something is so, or never will be."""

from __future__ import annotations

import pytest

from ballonet.errors import GuestError
from ballonet.lab import waiting
from ballonet.lab.waiting import becomes, wait_for, wait_until


def test_it_ends_when_it_is_so() -> None:
    looks = iter([0, 7])
    assert wait_for(lambda: next(looks), "a number", look_s=0) == 7
    said = iter([False, True])
    assert becomes(lambda: next(said), 60)


def test_it_ends_when_it_never_will_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_END_S", 0.0)
    assert not becomes(lambda: False, 0)
    with pytest.raises(GuestError, match="for 0 s nothing happens"):
        wait_until(lambda: False, "nothing happens")
    with pytest.raises(GuestError, match="a number did not come within 0 s"):
        wait_for(lambda: 0, "a number")
