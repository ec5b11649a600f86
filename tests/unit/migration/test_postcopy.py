"""Both ends of post-copy: every page once, whatever order, whatever is lost."""

from __future__ import annotations

from typing import Final

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ballonet.errors import GuestMemoryError, PeerError, UsageError
from ballonet.memory.runs import PageRuns
from ballonet.migration.postcopy import (
    FaultAnswer,
    MissingPages,
    Run,
    ServedPages,
    as_set,
    pages_of_ranges,
)

ALL: Final = 64
Pages = NDArray[np.bool_]


def pages(*pfns: int) -> Pages:
    found = np.zeros(ALL, np.bool_)
    found[list(pfns)] = True
    return found


def runs(*pairs: tuple[int, int]) -> PageRuns:
    table = np.array(pairs, np.int64).reshape(-1, 2)
    return PageRuns(table[:, 0], table[:, 1])


def listed(found: PageRuns) -> list[tuple[int, int]]:
    return list(zip(found.first_pfns.tolist(), found.pages.tolist(), strict=True))


def take(served: ServedPages, pages_max: int = ALL) -> list[tuple[int, int]]:
    sent = served.take(pages_max)
    return [] if sent is None else listed(sent)


def all_of(served: ServedPages, pages_max: int = ALL) -> list[list[tuple[int, int]]]:
    sent = []
    while runs := take(served, pages_max):
        sent.append(runs)
    return sent


def test_a_missing_page_is_asked_for_once() -> None:
    missing = MissingPages(pages(3))
    answers = [missing.fault(3) for _ in range(3)]
    assert answers == [FaultAnswer.ASK, FaultAnswer.WAIT, FaultAnswer.WAIT]


def test_what_is_not_to_come_reads_as_zeros() -> None:
    missing = MissingPages(pages(3))
    assert missing.fault(4) is FaultAnswer.ZERO
    missing.arrived(Run(3, 1))
    assert missing.fault(3) is FaultAnswer.ZERO


def test_only_what_is_still_missing_is_put_in_its_place() -> None:
    missing = MissingPages(pages(3, 4, 5, 8))
    assert missing.arrived(Run(4, 1)) == [Run(4, 1)]
    assert missing.arrived(Run(0, ALL)) == [Run(3, 1), Run(5, 1), Run(8, 1)]
    assert missing.arrived(Run(0, ALL)) == []
    assert missing.left_pages == 0


def test_a_hole_is_filled_only_where_somebody_waits() -> None:
    missing = MissingPages(pages(3, 4, 5))
    missing.fault(4)
    assert missing.are_holes(Run(3, 3)) == [Run(4, 1)]
    assert missing.left_pages == 0


def test_after_a_broken_channel_each_end_knows_what_to_say() -> None:
    missing = MissingPages(pages(3, 4, 5, 9))
    missing.fault(5)
    missing.fault(9)
    missing.arrived(Run(4, 2))
    assert listed(missing.received()) == [(4, 2)]
    assert listed(missing.asked()) == [(9, 1)]


@pytest.mark.parametrize("run", [Run(-1, 2), Run(ALL - 1, 2), Run(ALL, 1), Run(3, -1)])
def test_pages_that_are_not_the_guests_are_refused(run: Run) -> None:
    missing, served = MissingPages(pages(3)), ServedPages(pages(3))
    for call in (missing.arrived, missing.are_holes):
        with pytest.raises(GuestMemoryError):
            call(run)
    strange = runs((run.first_pfn, run.pages))
    with pytest.raises(GuestMemoryError):
        served.resume(strange)
    with pytest.raises(GuestMemoryError):
        as_set(strange, ALL)
    for pfn in (-1, ALL):
        with pytest.raises(GuestMemoryError):
            served.want(pfn)
    assert (missing.left_pages, served.left_pages) == (1, 1)


def test_everything_is_sent_once_in_as_many_pages_at_a_time_as_asked_for() -> None:
    served = ServedPages(pages(1, 2, 3, 4, 5, 9))
    assert all_of(served, 3) == [[(1, 3)], [(4, 2), (9, 1)]]
    assert served.left_pages == 0


def test_pages_that_lie_far_apart_are_all_found() -> None:
    served = ServedPages(pages(1, 40, 60))
    assert all_of(served, 2) == [[(1, 1)], [(40, 1), (60, 1)]]


def test_what_is_wanted_comes_first_and_then_what_follows_it() -> None:
    served = ServedPages(pages(*range(40)))
    assert take(served, 4) == [(0, 4)]
    served.want(30)
    served.want(30)
    assert [take(served, 4) for _ in range(3)] == [[(30, 1)], [(31, 4)], [(35, 4)]]
    assert all_of(served) == [[(39, 1)], [(4, 26)]]


def test_what_was_sent_is_not_sent_again_because_it_is_wanted() -> None:
    served = ServedPages(pages(3))
    assert all_of(served) == [[(3, 1)]]
    served.want(3)
    assert served.take(1) is None


def test_a_new_channel_gets_what_was_on_its_way_and_nothing_that_arrived() -> None:
    served = ServedPages(pages(1, 2, 3, 8, 9))
    assert [take(served, 2) for _ in range(2)] == [[(1, 2)], [(3, 1), (8, 1)]]
    served.resume(runs((1, 1)))
    assert served.left_pages == 4
    assert all_of(served) == [[(9, 1)], [(2, 2), (8, 1)]]


def test_what_is_wanted_again_over_a_new_channel_comes_first_again() -> None:
    served = ServedPages(pages(1, 2, 30))
    served.want(30)
    assert take(served) == [(30, 1)]
    served.resume(runs())
    served.want(30)
    assert take(served) == [(30, 1)]


def test_memory_in_bytes_is_the_pages_that_it_reaches_into() -> None:
    assert listed(pages_of_ranges([(0x1FFF, 2), (0x5000, 0x1000), (0x9000, 1)])) == [
        (1, 2),
        (5, 1),
        (9, 1),
    ]
    assert listed(pages_of_ranges([])) == []


def test_who_claims_to_have_received_what_was_not_to_come_is_refused() -> None:
    served = ServedPages(pages(1, 2))
    served.take(1)
    with pytest.raises(PeerError, match="not to come"):
        served.resume(runs((2, 2)))
    assert all_of(served) == [[(2, 1)]]


def test_whoever_waits_is_known_until_the_page_was_sent() -> None:
    served = ServedPages(pages(1, 30))
    assert not served.is_wanted
    served.want(30)
    assert served.is_wanted
    assert listed(served.left()) == [(1, 1), (30, 1)]
    take(served)
    assert not served.is_wanted
    assert listed(served.left()) == [(1, 1)]


def test_nothing_cannot_be_sent_at_a_time() -> None:
    with pytest.raises(UsageError):
        ServedPages(pages(1)).take(0)


sets = st.lists(st.booleans(), min_size=1, max_size=80).map(lambda one: np.array(one, np.bool_))
steps = st.lists(st.sampled_from(["send", "deliver", "twice", "fault", "break"]), max_size=200)


class Channel:
    """Both ends, and what is on its way between them."""

    def __init__(self, announced: Pages) -> None:
        self.missing, self.served = MissingPages(announced), ServedPages(announced)
        self.on_the_way: list[list[Run]] = []
        self.placed: list[int] = []

    def send(self, pages_max: int) -> None:
        sent = take(self.served, pages_max)
        self.on_the_way += [[Run(*run) for run in sent]] if sent else []

    def fault(self, pfn: int) -> None:
        if self.missing.fault(pfn) is FaultAnswer.ASK:
            self.served.want(pfn)

    def place(self, sent: list[Run]) -> None:
        for run in sent:
            for first, count in self.missing.arrived(run):
                self.placed.extend(range(first, first + count))

    def lose(self) -> None:
        """All that is on its way, and begin anew."""
        self.on_the_way.clear()
        self.served.resume(self.missing.received())
        for first, count in listed(self.missing.asked()):
            for pfn in range(first, first + count):
                self.served.want(pfn)


@given(data=st.data(), announced=sets, steps=steps)
def test_every_page_is_placed_once_whatever_is_lost_doubled_or_late(
    data: st.DataObject, announced: Pages, steps: list[str]
) -> None:
    channel = Channel(announced)
    way = channel.on_the_way
    for step in steps:
        match step:
            case "send":
                channel.send(data.draw(st.integers(1, 9)))
            case "fault":
                channel.fault(data.draw(st.integers(0, announced.size - 1)))
            case "break":
                channel.lose()
            case _ if way:
                index = data.draw(st.integers(0, len(way) - 1))
                channel.place(way[index] if step == "twice" else way.pop(index))
    for sent in list(way):
        channel.place(sent)
    while channel.served.left_pages:
        channel.send(ALL)
        channel.place(way[-1])
    assert sorted(channel.placed) == np.flatnonzero(announced).tolist()
    assert (channel.missing.left_pages, channel.served.left_pages) == (0, 0)
    assert listed(channel.missing.asked()) == []
