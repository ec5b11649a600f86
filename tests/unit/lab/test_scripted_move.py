"""The order in which nothing is lost, and those in which a page is."""

from __future__ import annotations

import pytest

from ballonet.lab.experiment import perform
from ballonet.lab.notebook import Notebook
from ballonet.lab.questions import find
from ballonet.lab.scripted_move import Clearing, Hinting, move


@pytest.mark.parametrize("hinting", Hinting)
@pytest.mark.parametrize("clearing", Clearing)
def test_a_page_is_lost_only_where_something_is_out_of_order(
    hinting: Hinting, clearing: Clearing
) -> None:
    is_right = hinting is not Hinting.LATE_AS_NEW and clearing is Clearing.WHEN_READ
    assert move(hinting, clearing).is_lost is not is_right


def test_the_steps_show_what_is_out_of_order() -> None:
    right = move(Hinting.IN_ITS_ROUND, Clearing.WHEN_READ).steps
    heard = "the hint of page 5 is heard, as one of round 1"
    assert right.index(heard) < right.index("log read and begun anew: page 5 was written")
    late = move(Hinting.LATE_AS_NEW, Clearing.WHEN_READ).steps
    heard = "the hint of page 5 is heard, as one of round 2"
    assert late.index(heard) > late.index("log read and begun anew: page 5 was written")
    cleared = move(Hinting.IN_ITS_ROUND, Clearing.WHEN_SENT).steps
    sent = cleared.index("sent: 5 (page 5 holds 2)")
    assert cleared[sent + 1 : sent + 3] == (
        "    the guest writes page 5: it holds 3 now",
        "log begun anew for: 5",
    )


def test_the_experiment_is_supported() -> None:
    perform(find("dirty-lost"), Notebook())
