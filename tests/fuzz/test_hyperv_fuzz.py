"""Proof that the fuzzers of Hyper-V's two ends would notice."""

from __future__ import annotations

import pytest
from tests.fuzz.hyperv_driver import HypervDriverFuzz
from tests.fuzz.hyperv_host import HypervHostFuzz
from tests.fuzz.setting import FuzzSetting
from tests.fuzz.worker import fuzz

from ballonet.balloon.given_memory import GivenMemory
from ballonet.balloon.inhibition import Inhibition
from ballonet.hyperv import balloon_worker, resizing
from ballonet.hyperv.balloon_worker import BalloonWorker
from ballonet.hyperv.page_ranges import each_page

HOST, DRIVER = HypervHostFuzz(), HypervDriverFuzz()


@pytest.mark.parametrize(
    ("setting", "owner", "name", "broken", "word"),
    [
        (HOST, GivenMemory, "take_back", lambda *_: None, "are the guest's"),
        (HOST, Inhibition, "reasons", (), "inhibited"),
        (HOST, resizing, "each_page", lambda runs: each_page(runs) + 1, "are the guest's"),
        (DRIVER, BalloonWorker, "_above_floor", lambda _, asked: asked, "below the floor"),
        (DRIVER, balloon_worker, "RANGES_MAX", 511, "AssertionError"),
    ],
    ids=["pages stay", "inhibition", "another page", "no floor", "long messages"],
)
def test_an_end_that_is_wrong_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
    setting: FuzzSetting,
    owner: object,
    name: str,
    broken: object,
    word: str,
) -> None:
    monkeypatch.setattr(owner, name, broken)
    tally, _ = fuzz([], 5000, seed=3, setting=setting)
    assert word in tally.finding
