"""A short fuzz run, and proof that the oracle would notice."""

from __future__ import annotations

import pytest
from tests.fuzz.__main__ import CORPUS
from tests.fuzz.worker import fuzz, load_corpus
from tests.property.ring_under_test import RingFormat

from ballonet.device.inhibition import Inhibition
from ballonet.device.poison import PagePoison
from ballonet.memory.host_pages import HostPageParts

INPUTS = 2500
each_format = pytest.mark.parametrize("ring_format", list(RingFormat))


@each_format
def test_random_guests_find_nothing(ring_format: RingFormat) -> None:
    corpus = load_corpus(CORPUS)
    assert corpus
    tally, _ = fuzz(corpus, len(corpus) + INPUTS, seed=7, ring_format=ring_format)
    assert tally.finding == ""
    assert tally.inputs == len(corpus) + INPUTS


def _finding(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, broken: object) -> str:
    monkeypatch.setattr(owner, name, broken)
    corpus = load_corpus(CORPUS)
    return fuzz(corpus, len(corpus) + 20_000, seed=3, ring_format=RingFormat.SPLIT)[0].finding


def test_parts_that_are_not_forgotten_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    found = _finding(monkeypatch, HostPageParts, "take", lambda *_: None)
    assert "not given" in found


def test_poison_that_is_ignored_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    found = _finding(monkeypatch, PagePoison, "allows_discard", lambda *_, **__: True)
    assert "poison" in found


def test_inhibition_that_is_ignored_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    found = _finding(monkeypatch, Inhibition, "reasons", ())
    assert "inhibited" in found
