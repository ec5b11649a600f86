"""The destination: what it takes, in which order, and that nothing else ever runs."""

from itertools import product

import pytest
from tests.unit.migration.stream_under_test import (
    PAGE,
    REGIONS,
    SMALL_RESULT,
    STATES,
    PlainMemory,
    begin,
    make_runs,
    numbers,
    page,
    pages,
    small_migration,
    state,
    verify,
)

from ballonet.errors import StreamError, SystemCallError, UsageError
from ballonet.memory.runs import PageRuns
from ballonet.migration.incoming import TRANSITIONS, Incoming, Phase, state_bytes_max
from ballonet.migration.records import (
    FORWARD,
    Begin,
    End,
    Go,
    GuestRegion,
    Holes,
    Loaded,
    Pass,
    Postcopy,
    Record,
    RecordType,
    StateName,
    Totals,
)

MAP_STATES = {StateName.KERNEL: b"kernel, part one and two", StateName.DEVICE: b"device"}
NONE: frozenset[StateName] = frozenset()


def destination(states: frozenset[StateName] = STATES) -> Incoming:
    return Incoming(PlainMemory(), REGIONS, states)


def contents(incoming: Incoming) -> dict[int, bytes]:
    memory = incoming.memory
    assert isinstance(memory, PlainMemory)
    return memory.pages


def fed(incoming: Incoming, *records: Record) -> Incoming:
    for record in records:
        incoming.feed(record)
    return incoming


def end_of(incoming: Incoming) -> End:
    return End(incoming.totals)


def in_postcopy(*missing: tuple[int, int]) -> Incoming:
    incoming = fed(destination(NONE), begin(may_postcopy=True), Pass(1), pages([1], (0, 1)))
    return fed(incoming, Postcopy(incoming.totals, is_last=True, runs=make_runs(*missing)))


def test_a_whole_migration_is_complete_only_after_its_end() -> None:
    incoming = destination()
    for record in small_migration():
        incoming.feed(record)
        assert not incoming.is_complete
        assert not incoming.may_run
    incoming.feed(end_of(incoming))
    assert incoming.is_complete
    assert contents(incoming) == SMALL_RESULT
    assert {name: bytes(data) for name, data in incoming.states.items()} == MAP_STATES
    incoming.feed(Go())
    assert incoming.phase is Phase.HANDED_OVER


def test_a_hole_takes_away_what_an_earlier_pass_has_brought() -> None:
    incoming = fed(destination(), begin(), Pass(1), pages([1, 2], (0, 2)), Pass(2))
    incoming.feed(Holes(make_runs((1, 1))))
    assert contents(incoming) == {0: page(1)}


#: One record of each type that is right in itself.
SAMPLES: dict[RecordType, Record] = {
    RecordType.BEGIN: begin(may_postcopy=True),
    RecordType.PASS: Pass(1),
    RecordType.PAGES: pages([1], (3, 1)),
    RecordType.HOLES: Holes(make_runs((3, 1))),
    RecordType.STATE: state(StateName.KERNEL, b"k"),
    RecordType.POSTCOPY: Postcopy(Totals(0, 0, 0), is_last=False, runs=make_runs()),
    RecordType.END: End(Totals(0, 0, 0)),
    RecordType.GO: Go(),
    RecordType.VERIFY: verify([0], (3, 1)),
}


def allowed(kind: RecordType, phase: Phase) -> bool:
    """The order of records, as sentences and not as a table."""
    match kind.name:
        case "BEGIN":
            return phase in (Phase.WAITING, Phase.RESUMED)
        case "PASS":
            return phase in (Phase.BEGUN, Phase.PASSES)
        case "PAGES" | "HOLES":
            return phase in (Phase.PASSES, Phase.POSTCOPY)
        case "VERIFY":
            return phase is Phase.PASSES
        case "STATE":
            return phase in (Phase.PASSES, Phase.STATES)
        case "POSTCOPY":
            return phase in (Phase.PASSES, Phase.STATES, Phase.MISSING)
        case "END":
            return phase in (Phase.PASSES, Phase.STATES, Phase.POSTCOPY)
        case "GO":
            return phase in (Phase.COMPLETE, Phase.POSTCOPY)
    raise AssertionError(kind)


@pytest.mark.parametrize(("kind", "phase"), list(product(sorted(FORWARD), Phase)))
def test_every_record_in_every_phase_is_taken_or_refused_for_good(
    kind: RecordType, phase: Phase
) -> None:
    assert (phase in TRANSITIONS[kind]) == allowed(kind, phase)
    if allowed(kind, phase):
        return
    incoming = destination()
    incoming.phase = phase
    with pytest.raises(StreamError, match="cannot come"):
        incoming.feed(SAMPLES[kind])
    assert incoming.phase is Phase.REFUSED
    assert not incoming.may_run


def test_a_record_that_goes_the_other_way_is_refused() -> None:
    with pytest.raises(StreamError):
        destination().feed(Loaded())


WRONG: dict[str, list[Record]] = {
    "memory of another size": [Begin((GuestRegion(0, 16 * PAGE, PAGE),), False, False)],
    "memory elsewhere": [
        Begin((REGIONS[0], GuestRegion(16 * PAGE, 16 * PAGE, PAGE)), False, False)
    ],
    "host pages of another size": [
        Begin((REGIONS[0], GuestRegion(32 * PAGE, 16 * PAGE, 2 << 20)), False, False)
    ],
    "a pass left out": [begin(), Pass(2)],
    "a pass twice": [begin(), Pass(1), Pass(1)],
    "a page in the gap": [begin(), Pass(1), pages([1], (16, 1))],
    "a run into the gap": [begin(), Pass(1), pages([1, 2], (15, 2))],
    "a run over the gap": [begin(), Pass(1), Holes(make_runs((0, 48)))],
    "a page behind all regions": [begin(), Pass(1), pages([1], (48, 1))],
    "the second run behind all regions": [begin(), Pass(1), pages([1, 2], (0, 1), (60, 1))],
    "a page that is not as at the source": [
        begin(),
        Pass(1),
        pages([1, 2], (0, 2)),
        verify([1, 3], (0, 2)),
    ],
    "checksums of a page in the gap": [begin(), Pass(1), verify([0], (16, 1))],
    "a state that is not wanted": [begin(), Pass(1), state(StateName.DRIVER, b"d")],
    "a state twice": [begin(), Pass(1), *[state(StateName.KERNEL, b"k")] * 2],
    "a part left out": [begin(), Pass(1), state(StateName.KERNEL, b"k", 1, 3)],
    "another state between parts": [
        begin(),
        Pass(1),
        state(StateName.KERNEL, b"k", 0, 2),
        state(StateName.DEVICE, b"d"),
    ],
    "parts that become more": [
        begin(),
        Pass(1),
        state(StateName.KERNEL, b"k", 0, 2),
        state(StateName.KERNEL, b"k", 1, 3),
    ],
    "a state without end": [begin(), Pass(1), state(StateName.KERNEL, b"k", 0, 1 << 31)],
    "post-copy that was not announced": [
        *small_migration(),
        Postcopy(Totals(4, 20, 10), is_last=True, runs=make_runs((1, 1))),
    ],
    "an end without all states": [begin(), Pass(1), End(Totals(0, 0, 2))],
    "an end in the middle of a state": [
        *small_migration()[:-1],
        state(StateName.DEVICE, b"d", 0, 2),
        End(Totals(4, 20, 10)),
    ],
    "an end with a page too few": [*small_migration(), End(Totals(3, 20, 10))],
    "an end with a hole too many": [*small_migration(), End(Totals(4, 21, 10))],
    "an end with a record too many": [*small_migration(), End(Totals(4, 20, 11))],
}


@pytest.mark.parametrize("name", list(WRONG))
def test_what_is_wrong_is_refused_at_that_record_and_all_after_it(name: str) -> None:
    *before, wrong = WRONG[name]
    incoming = fed(destination(), *before)
    memory = dict(contents(incoming))
    with pytest.raises(StreamError) as caught:
        incoming.feed(wrong)
    assert (caught.value.record, caught.value.number) == (wrong.TYPE.name, len(before))
    assert "\n" not in str(caught.value)
    assert contents(incoming) == memory
    for record in (*SAMPLES.values(), end_of(incoming)):
        with pytest.raises(StreamError, match="refused"):
            incoming.feed(record)
    assert not incoming.may_run
    with pytest.raises(UsageError):
        _ = incoming.states


def test_pages_that_differ_are_named_but_not_all() -> None:
    incoming = fed(destination(), begin(), Pass(1), pages([1] * 8, (0, 8)))
    with pytest.raises(StreamError, match=r"source: pages 0x1, 0x2, 0x3, 0x4 and 2 more$"):
        incoming.feed(verify([1, 2, 2, 2, 2, 2, 2, 1], (0, 8)))


def test_the_totals_of_the_small_migration_are_right() -> None:
    incoming = fed(destination(), *small_migration(), End(Totals(4, 20, 10)))
    assert incoming.is_complete


class FullMemory(PlainMemory):
    """There is no room for it."""

    def write(self, runs: PageRuns, data: memoryview) -> None:  # noqa: ARG002
        raise SystemCallError("writing", "guest memory", "No space left on device")


def test_memory_that_fails_ends_the_migration() -> None:
    incoming = fed(Incoming(FullMemory(), REGIONS, NONE), begin(), Pass(1))
    with pytest.raises(SystemCallError):
        incoming.feed(pages([1], (0, 1)))
    with pytest.raises(StreamError, match="refused"):
        incoming.feed(end_of(incoming))
    assert not incoming.may_run


def test_a_state_takes_a_bounded_part_of_the_memory() -> None:
    assert state_bytes_max(1 << 30) == 24 << 20
    small = state_bytes_max(32 * PAGE) >> 20
    with pytest.raises(StreamError, match="parts"):
        fed(destination(), begin(), Pass(1), state(StateName.KERNEL, b"", 0, small + 2))


def test_in_post_copy_the_guest_may_run_and_the_rest_completes_it() -> None:
    incoming = in_postcopy((4, 2), (33, 1))
    assert incoming.may_run
    assert not incoming.is_complete
    fed(incoming, pages([5], (33, 1)), Holes(make_runs((4, 1))))
    assert numbers(incoming.missing) == [5]
    assert numbers(incoming.arrived) == [4, 33]
    incoming.feed(pages([6], (5, 1)))
    assert incoming.missing.total_pages == 0
    incoming.feed(end_of(incoming))
    assert incoming.is_complete
    assert contents(incoming) == {0: page(1), 5: page(6), 33: page(5)}


def test_what_is_missing_may_be_named_in_many_records_and_the_last_one_starts_the_guest() -> None:
    incoming = fed(destination(NONE), begin(may_postcopy=True), Pass(1))
    incoming.feed(Postcopy(incoming.totals, is_last=False, runs=make_runs((4, 2))))
    assert not incoming.may_run
    incoming.feed(Postcopy(incoming.totals, is_last=True, runs=make_runs((33, 1))))
    assert incoming.may_run
    assert numbers(incoming.missing) == [4, 5, 33]


def test_an_old_version_of_a_missing_page_is_not_found_by_the_guest() -> None:
    incoming = in_postcopy((0, 1))
    assert contents(incoming) == {}


@pytest.mark.parametrize("record", [pages([1], (0, 1)), Holes(make_runs((0, 1)))])
def test_in_post_copy_a_page_that_is_there_is_never_overwritten(record: Record) -> None:
    incoming = in_postcopy((4, 2))
    with pytest.raises(StreamError, match="here already"):
        incoming.feed(record)
    assert contents(incoming) == {0: page(1)}


def test_in_post_copy_a_page_comes_once() -> None:
    incoming = fed(in_postcopy((4, 2)), pages([5], (4, 1)))
    with pytest.raises(StreamError, match="here already"):
        incoming.feed(pages([6, 7], (4, 2)))


def test_an_end_while_pages_are_missing_is_refused() -> None:
    incoming = in_postcopy((4, 2))
    with pytest.raises(StreamError, match="2 pages are missing"):
        incoming.feed(end_of(incoming))


def test_post_copy_needs_the_right_totals_and_every_state() -> None:
    incoming = fed(destination(), begin(may_postcopy=True), Pass(1))
    with pytest.raises(StreamError, match="state"):
        incoming.feed(Postcopy(incoming.totals, is_last=True, runs=make_runs()))
    incoming = fed(destination(NONE), begin(may_postcopy=True), Pass(1))
    with pytest.raises(StreamError, match="counts"):
        incoming.feed(Postcopy(Totals(1, 0, 2), is_last=True, runs=make_runs()))


def test_post_copy_goes_on_over_a_new_channel_from_where_it_was() -> None:
    incoming = fed(in_postcopy((4, 2)), pages([5], (4, 1)))
    incoming.resume()
    incoming.resume()  # the first new channel broke before it had said anything
    assert incoming.may_run
    fed(incoming, begin(may_postcopy=True), pages([6], (5, 1)), End(Totals(1, 0, 2)))
    assert incoming.is_complete
    assert contents(incoming) == {0: page(1), 4: page(5), 5: page(6)}


def test_only_post_copy_can_be_resumed() -> None:
    with pytest.raises(UsageError):
        fed(destination(), begin(), Pass(1)).resume()
    complete = fed(in_postcopy(), End(Totals(1, 0, 4)))
    with pytest.raises(UsageError):
        complete.resume()
    refused = fed(destination(), begin())
    with pytest.raises(StreamError):
        refused.feed(Pass(2))
    with pytest.raises(UsageError):
        refused.resume()


def test_a_record_that_is_refused_in_post_copy_has_brought_nothing_and_ends_its_channel() -> None:
    incoming = in_postcopy((4, 2))
    with pytest.raises(StreamError, match="here already"):
        incoming.feed(pages([5, 6], (4, 1), (7, 1)))
    assert not incoming.may_run
    incoming.resume()
    incoming.feed(begin(may_postcopy=True))
    assert numbers(incoming.missing) == [4, 5]
    assert numbers(incoming.arrived) == []


def test_a_new_channel_of_another_migration_is_refused() -> None:
    incoming = fed(
        destination(NONE), begin(may_postcopy=True, migration_id=7), Pass(1), pages([1], (0, 1))
    )
    incoming.feed(Postcopy(incoming.totals, is_last=True, runs=make_runs((4, 2))))
    incoming.resume()
    with pytest.raises(StreamError, match="another migration"):
        incoming.feed(begin(may_postcopy=True, migration_id=8))
    incoming.resume()
    incoming.feed(begin(may_postcopy=True, migration_id=7))
    assert incoming.phase is Phase.POSTCOPY
