"""A short fuzz run of every kind, and proof that the oracle would notice."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.fuzz.__main__ import CORPUS, RUNS
from tests.fuzz.machine import Setting
from tests.fuzz.setting import FuzzSetting
from tests.fuzz.worker import fuzz, load_corpus
from tests.property.ring_under_test import RingFormat

from ballonet.balloon.inhibition import Inhibition
from ballonet.balloon.page_ledger import PageLedger
from ballonet.balloon.region_pages import RegionPages
from ballonet.device import inflation
from ballonet.device.pfns import given_pfns
from ballonet.device.poison import PagePoison

INPUTS = 1000
SPLIT = Setting(RingFormat.SPLIT)


@pytest.mark.parametrize(("setting", "share"), RUNS, ids=[str(setting) for setting, _ in RUNS])
def test_random_guests_find_nothing(setting: FuzzSetting, share: float) -> None:
    corpus = load_corpus(CORPUS)
    assert corpus
    inputs = len(corpus) + min(INPUTS, round(10 * INPUTS * share))
    tally, _ = fuzz(corpus, inputs, seed=7, setting=setting)
    assert tally.finding == ""
    assert tally.inputs == inputs


@pytest.mark.parametrize(
    ("owner", "name", "broken", "word"),
    [
        (RegionPages, "take_back", lambda *_: None, "not given"),
        (PageLedger, "take_back_all", lambda _: None, "not given"),
        (inflation, "taken_pfns", given_pfns, "not given"),
        (PagePoison, "allows_discard", lambda *_, **__: True, "poison"),
        (Inhibition, "reasons", (), "inhibited"),
    ],
    ids=["pages stay", "all pages stay", "one reading", "poison", "inhibition"],
)
def test_a_device_that_is_wrong_is_found_out(
    monkeypatch: pytest.MonkeyPatch, owner: object, name: str, broken: object, word: str
) -> None:
    if owner is PageLedger:
        broken = _first_time_only(PageLedger.take_back_all)
    monkeypatch.setattr(owner, name, broken)
    corpus = load_corpus(CORPUS)
    setting = Setting(RingFormat.SPLIT, hostile_deflates=True)
    tally, _ = fuzz(corpus, len(corpus) + 20_000, seed=3, setting=setting)
    assert word in tally.finding


def _first_time_only(action: Callable[[PageLedger], None]) -> Callable[[PageLedger], None]:
    """For a method that makes the object, too."""

    def act(ledger: PageLedger) -> None:
        if not hasattr(ledger, "table"):
            action(ledger)

    return act
