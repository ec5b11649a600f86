"""Reasons to keep memory nest."""

import pytest

from ballonet.balloon.inhibition import Inhibition, InhibitReason
from ballonet.errors import UsageError


def test_every_reason_counts() -> None:
    inhibition = Inhibition()
    inhibition.inhibit(InhibitReason.PINNED)
    inhibition.inhibit(InhibitReason.PINNED)
    inhibition.inhibit(InhibitReason.SNAPSHOT)
    assert inhibition.reasons == (InhibitReason.PINNED, InhibitReason.SNAPSHOT)
    for lifted in (InhibitReason.PINNED, InhibitReason.SNAPSHOT, InhibitReason.PINNED):
        assert inhibition.reasons
        inhibition.lift(lifted)
    assert not inhibition.reasons


def test_lifting_what_was_not_inhibited_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(UsageError, match="pinned"):
        Inhibition().lift(InhibitReason.PINNED)
