"""Proof that the fuzzer of VMware's balloon would notice a wrong host or driver."""

from __future__ import annotations

import numpy as np
import pytest
from tests.fuzz.setting import FuzzSetting
from tests.fuzz.vmware_driver import VmwareDriverFuzz
from tests.fuzz.vmware_host import VmwareHostFuzz
from tests.fuzz.worker import fuzz

from ballonet.balloon.given_memory import GivenMemory
from ballonet.balloon.inhibition import Inhibition
from ballonet.vmware import host, verdicts
from ballonet.vmware.balloon_frames import BalloonFrames
from ballonet.vmware.inflation import Inflation
from ballonet.vmware.locked_pages import LockedPages


@pytest.mark.parametrize(
    ("owner", "name", "broken", "word"),
    [
        (GivenMemory, "take_back", lambda *_: None, "not the host's"),
        (GivenMemory, "take_back_all", lambda _: None, "not the host's"),
        (LockedPages, "overlap", lambda _, heads, __: np.zeros(heads.size, np.bool_), "batch page"),
        (verdicts, "_wanted", lambda statuses, _: (np.flatnonzero(statuses == 0),) * 2, "another"),
        (host, "BATCH_ENTRIES_MAX", 513, "Answer"),
        (Inhibition, "reasons", (), "inhibited"),
    ],
    ids=["pages stay", "all pages stay", "locked twice", "named twice", "long batch", "inhibition"],
)
def test_a_host_that_is_wrong_is_found_out(
    monkeypatch: pytest.MonkeyPatch, owner: object, name: str, broken: object, word: str
) -> None:
    monkeypatch.setattr(owner, name, broken)
    assert word in finding(VmwareHostFuzz(), 20_000)


@pytest.mark.parametrize(
    ("owner", "name", "broken", "word"),
    [
        (BalloonFrames, "put_back", lambda *_: None, "stay"),
        (Inflation, "_free_refused", lambda *_: None, "missing"),
    ],
    ids=["pages lost", "refused pages"],
)
def test_a_driver_that_is_wrong_is_found_out(
    monkeypatch: pytest.MonkeyPatch, owner: object, name: str, broken: object, word: str
) -> None:
    monkeypatch.setattr(owner, name, broken)
    assert word in finding(VmwareDriverFuzz(), 3000)


def finding(setting: FuzzSetting, inputs: int) -> str:
    tally, _ = fuzz([], inputs, seed=3, setting=setting)
    return tally.finding
