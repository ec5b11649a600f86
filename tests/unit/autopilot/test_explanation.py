"""Every reason in words."""

from __future__ import annotations

import string

import pytest
from tests.support.autopilot_fleet import MIB, Fleet, Guest

from ballonet.autopilot.distress import Signal
from ballonet.autopilot.explanation import Reason, Verdict, say, say_signals
from ballonet.autopilot.vm_state import VmState


@pytest.mark.parametrize("reason", Reason, ids=lambda one: one.name.lower())
def test_a_verdict_has_every_figure_that_its_reason_names(reason: Reason) -> None:
    fleet = Fleet(1400 * MIB, Guest("a"), Guest("b"))
    fleet.seconds(2)
    figures = fleet.verdict("a").figures
    names = [name for _, name, _, _ in string.Formatter().parse(reason.value) if name]
    assert all(name in figures for name in names)
    assert "{" not in say(reason, figures)


def test_figures_are_said_in_their_units() -> None:
    said = say(Reason.RESTS, {"lack_bytes": 3 * MIB, "raised_ago_s": 2.4})
    assert said == "others lack 3.0 MiB, but it got something 2 s ago"


def test_a_change_says_from_where_to_where_and_why() -> None:
    verdict = Verdict(
        "db", 5.0, 512 * MIB, 768 * MIB, VmState.STEADY, Reason.SURPLUS, {"lack_bytes": 0}
    )
    assert str(verdict) == "db from 512.0 MiB to 768.0 MiB: nobody else needs that"


def test_sizes_that_are_nearly_the_same_are_said_closely_enough_to_differ() -> None:
    verdict = Verdict("db", 5.0, 2048 * MIB, 2032 * MIB, VmState.PROBE, Reason.TO_HOST)
    assert str(verdict).startswith("db from 2048.0 MiB to 2032.0 MiB: ")


@pytest.mark.parametrize("signal", Signal)
def test_every_sign_of_suffering_has_words(signal: Signal) -> None:
    said = say_signals({signal: 5 * MIB})
    assert ("5.0 MiB" in said) == signal.value.endswith(("_bytes", "_bytes_per_s"))
