"""How much a guest uses, seen from numbers of two moments."""

from __future__ import annotations

from ballonet.autopilot.reading import Reading
from ballonet.autopilot.usage import Kept, Usage, use

MIB = 1 << 20
SLACK = 4 * MIB
HIDDEN = 10 * MIB
USED = 100 * MIB  #: as the kernel counts it
MEMORY = 512 * MIB


def reading(kept: int, *, used: int = USED, counts_balloon: bool = False) -> Reading:
    """What a kernel says that keeps so much at this moment."""
    total = (MEMORY if counts_balloon else kept) - HIDDEN
    return Reading(kept - HIDDEN - used, total)


def test_one_answer_is_enough() -> None:
    known = use(None, reading(MEMORY), Kept(MEMORY, MEMORY), SLACK)
    assert known.used_bytes == USED + HIDDEN


def learnt(*, counts_balloon: bool) -> Usage:
    """After two answers while the balloon stood still at two sizes."""
    known = None
    for kept in (MEMORY, 400 * MIB):
        said = reading(kept, counts_balloon=counts_balloon)
        known = use(known, said, Kept(kept, kept), SLACK)
    assert known is not None
    return known


def test_whether_the_balloon_is_in_memtotal_is_learnt_from_two_sizes() -> None:
    assert learnt(counts_balloon=False).total_moves is True
    assert learnt(counts_balloon=True).total_moves is False


def test_a_balloon_that_moves_is_no_growth_of_use() -> None:
    """The VM is seen at 250 MiB, while its guest spoke at 330."""
    known = learnt(counts_balloon=False)
    moving = use(known, reading(330 * MIB), Kept(250 * MIB, 400 * MIB), SLACK)
    assert moving.used_bytes == known.used_bytes


def test_nor_where_memtotal_stays_as_it_is() -> None:
    known = learnt(counts_balloon=True)
    said = reading(330 * MIB, counts_balloon=True)
    moving = use(known, said, Kept(250 * MIB, 400 * MIB), SLACK)
    assert moving.used_bytes == known.used_bytes


def test_growth_while_the_balloon_moves_is_seen() -> None:
    known = learnt(counts_balloon=False)
    said = reading(330 * MIB, used=USED + 60 * MIB)
    assert use(known, said, Kept(250 * MIB, 400 * MIB), SLACK).used_bytes == 170 * MIB


def test_where_it_is_not_known_use_is_as_it_was_within_what_is_possible() -> None:
    known = learnt(counts_balloon=True)
    said = reading(300 * MIB, used=USED + 90 * MIB, counts_balloon=True)
    seen = use(known, said, Kept(280 * MIB, 310 * MIB), SLACK)
    assert seen.used_bytes == 280 * MIB - said.available_bytes


def test_use_is_never_below_nothing() -> None:
    assert use(None, Reading(600 * MIB, None), Kept(MEMORY, MEMORY), SLACK).used_bytes == 0
