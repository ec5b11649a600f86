"""Rounds as lines: what was seen can be decided again."""

from __future__ import annotations

import json

import pytest
from tests.support.autopilot_fleet import MIB, Fleet, Guest

from ballonet.autopilot.law import steps
from ballonet.autopilot.recording import decision_line, parse_round, replay_rounds, round_line
from ballonet.autopilot.sample import HostSample, Round, VmSample
from ballonet.autopilot.settings import Settings
from ballonet.errors import WireError

SEEN = Round(
    5.0,
    HostSample(1 << 40, None, 0.01),
    (
        VmSample("db", 1 << 30, 1 << 29, None, 77, {"avail": 9}, 3.0, 0.5, has_driver=True),
        VmSample("web", no_answer="it is gone"),
    ),
    0.5,
    3,
)


def test_a_round_is_read_as_it_was_written() -> None:
    assert parse_round(round_line(SEEN)) == SEEN


def test_rounds_that_were_recorded_lead_to_the_same_decisions() -> None:
    fleet = Fleet(1400 * MIB, Guest("a"), Guest("b", used=400 * MIB))
    lines, decided = [], []
    for _ in range(20):
        lines.append(round_line(fleet.seen()))
        fleet.second()
        for change in fleet.last.changes:
            lines.append(decision_line(change))
            decided.append(change)
    again = [one for last in steps(replay_rounds(lines), fleet.settings) for one in last.changes]
    assert again == decided
    assert decided


def test_what_other_settings_would_have_done_can_be_seen() -> None:
    fleet = Fleet(1400 * MIB, Guest("a"), Guest("b"), settings=Settings(reserve_bytes=0))
    lines = []
    for _ in range(20):
        lines.append(round_line(fleet.seen()))
        fleet.second()
    other = Settings(reserve_bytes=0, budget_bytes=1000 * MIB, is_dry_run=True)
    last = list(steps(replay_rounds(lines), other))[-1]
    assert last.budget.free_bytes < 0
    assert last.changes


def test_a_decision_says_why_in_words_and_figures() -> None:
    fleet = Fleet(1400 * MIB, Guest("a"), Guest("b"))
    change = fleet.second().changes[0]
    line = json.loads(decision_line(change))["decision"]
    assert line["vm"] == change.vm
    assert line["because"] in str(change)
    assert line["figures"]["used_bytes"] == 200 * MIB
    assert line["figures"]["raised_ago_s"] is None  # never


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{",
        "[" * 100_000,
        "7",
        "{}",
        '{"round":{"vms":7}}',
        '{"round":{"at_s":"x","host":{},"vms":[]}}',
        '{"round":{"at_s":NaN,"host":{},"vms":[]}}',
        '{"round":{"at_s":1e99,"host":{},"vms":[]}}',
        '{"round":{"at_s":1,"host":7,"vms":[]}}',
        '{"round":{"at_s":1,"host":{},"vms":[{}]}}',
        '{"round":{"at_s":1,"host":{},"vms":[{"vm":3}]}}',
        '{"round":{"at_s":1,"host":{},"vms":[{"vm":"a","actual_bytes":true}]}}',
        '{"round":{"at_s":1,"host":{},"vms":[{"vm":"a","has_driver":1}]}}',
        '{"round":{"at_s":1,"host":{},"vms":[{"vm":"a","statistics":{"avail":"9"}}]}}',
    ],
)
def test_a_line_that_is_no_round_is_refused(line: str) -> None:
    with pytest.raises(WireError, match="line 1"):
        parse_round(line)


def test_members_that_are_not_known_yet_are_passed_over() -> None:
    line = '{"round":{"at_s":1,"host":{"new":1},"vms":[{"vm":"a","newer":[]}],"x":2}}'
    assert parse_round(line).vms == (VmSample("a"),)
