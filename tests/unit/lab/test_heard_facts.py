"""Facts are kept in their order, and found by kind since a moment."""

from __future__ import annotations

from ballonet.balloon.facts import ActualChanged, ConfigAnnounced
from ballonet.lab.heard_facts import HeardFacts


def test_those_since_a_moment_are_found_by_kind() -> None:
    heard = HeardFacts()
    heard.hear(ActualChanged(1))
    begun_s = heard.now_s()
    mark = len(heard)
    heard.hear(ConfigAnnounced())
    heard.hear(ActualChanged(2))
    assert heard.of(ActualChanged) == [ActualChanged(1), ActualChanged(2)]
    assert heard.of(ActualChanged, mark) == [ActualChanged(2)]
    assert [one.fact for one in heard.since(mark)] == [ConfigAnnounced(), ActualChanged(2)]
    assert all(begun_s <= one.at_s <= heard.now_s() for one in heard.since(mark))
