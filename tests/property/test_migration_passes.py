"""The order of a migration against a guest that writes at the worst moments.

The guest is a table of pages: what each holds, how often it was written, and whether it is free.
It acts before and after everything the migration does, and between the pages of each piece: writes,
frees, takes back and fills with the same bytes, and lets go of what it had hinted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
from tests.support.clock import FakeClock

from ballonet.errors import MigrationError
from ballonet.memory.runs import PageRuns, merge_pfns
from ballonet.migration.hint_filter import HintFilter
from ballonet.migration.passes import PassDone, Passes
from ballonet.migration.settings import MigrationSettings, OnTimeout

PAGES = 96
HISTORIES = 250
#: Pages that the device writes, and nobody else.
DEVICE_PAGES = 4
PAGE_NS = 4096  # to send one: a byte a nanosecond


class Guest:
    """Pages, the logs, the device's hints, and the destination's copy; a `Source`."""

    def __init__(self, seed: int, clock: FakeClock) -> None:
        self.random = np.random.default_rng(seed)
        self.clock = clock
        self.content = self.random.integers(1, 4, PAGES)  # few values: many writes change nothing
        self.is_free = self.random.random(PAGES) < 0.5
        self.is_free[:DEVICE_PAGES] = False
        self.held: set[int] = set()  # hinted: free, and the guest's to take at any moment
        self.guest_log = np.zeros(PAGES, bool)
        self.device_log = np.zeros(PAGES, bool)
        self.is_tracked = False
        self.is_stopped = False
        self.copy = np.zeros(PAGES, np.int64)
        self.round: int | None = None
        self.rounds = 0
        self.hints: list[tuple[int, PageRuns]] = []
        self.was_done = self.was_committed = False
        self.fails_at = -1  # at which step it breaks
        self.steps = 0
        self.told: list[PassDone] = []
        self.paused_ns = 0
        self.is_compared = np.zeros(PAGES, bool)
        self.eagerness = 3  # things done between two steps of the migration

    def act(self) -> None:
        """What a running guest and its device do meanwhile."""
        if self.is_stopped:
            return
        for _ in range(int(self.random.integers(self.eagerness + 1))):
            page = int(self.random.integers(PAGES))
            what = self.random.random()
            if page < DEVICE_PAGES:
                self.write(page, self.device_log)
            elif self.is_free[page] and what < 0.4:
                self.take(page)
            elif not self.is_free[page] and what < 0.3:
                self.is_free[page] = True
            elif not self.is_free[page]:
                self.write(page, self.guest_log)
            elif self.round is not None and what < 0.9:
                self.hint(page)

    def take(self, page: int) -> None:
        """Use a free page, held or not; it is written, perhaps with what it held before."""
        self.held.discard(page)
        self.is_free[page] = False
        self.write(page, self.guest_log)

    def write(self, page: int, log: np.ndarray) -> None:
        if self.random.random() < 0.7:
            self.content[page] = self.random.integers(1, 4)
        if self.is_tracked:
            log[page] = True

    def hint(self, page: int) -> None:
        pages = np.array([one for one in range(page, min(page + 8, PAGES)) if self.is_free[one]])
        self.held.update(pages.tolist())
        assert self.round is not None
        self.hints.append((self.round, merge_pfns(pages.astype(np.uint64))))

    def step(self) -> None:
        self.act()
        self.steps += 1
        if self.steps == self.fails_at:
            raise MigrationError("the channel broke")

    def start_tracking(self) -> None:
        self.step()
        self.is_tracked = True
        self.act()

    def stop_tracking(self) -> None:
        self.is_tracked = False

    def read_guest_log(self) -> PageRuns:
        self.step()
        found = merge_pfns(np.flatnonzero(self.guest_log).astype(np.uint64))
        self.guest_log[:] = False
        self.act()
        return found

    def read_device_log(self) -> PageRuns:
        self.step()
        found = merge_pfns(np.flatnonzero(self.device_log).astype(np.uint64))
        self.device_log[:] = False
        self.act()
        return found

    def send(self, runs: PageRuns) -> int:
        self.step()
        for first, pages in zip(runs.first_pfns.tolist(), runs.pages.tolist(), strict=True):
            for page in range(first, first + pages):
                self.act()
                self.copy[page] = self.content[page]
                self.clock.advance_ns(PAGE_NS)
        self.act()
        return runs.total_pages * 4096

    def pause(self, ns: int) -> None:
        self.step()
        self.paused_ns += ns
        self.clock.advance_ns(ns)

    def throttle(self, percent: int) -> None:
        self.eagerness = 3 if percent < 50 else 0

    def stop_guest(self) -> None:
        self.step()
        self.is_stopped = True

    def resume_guest(self) -> None:
        self.is_stopped = False

    def send_holes(self) -> None:
        self.step()

    def send_checksums(self, runs: PageRuns) -> None:
        assert self.is_stopped
        for first, pages in zip(runs.first_pfns.tolist(), runs.pages.tolist(), strict=True):
            here = slice(first, first + pages)
            self.is_compared[here] = True
            if (self.copy[here] != self.content[here]).any():
                raise MigrationError("not as at the source")

    def send_state(self) -> None:
        self.step()

    def commit(self) -> None:
        self.step()
        self.was_committed = True

    def begin(self) -> int:
        self.step()
        self.rounds += 1
        self.round = self.rounds
        self.act()
        return self.rounds

    def take_hints(self, wait_ns: int) -> Iterable[tuple[int, PageRuns]]:
        self.step()
        for _ in range(30 if wait_ns else 1):
            self.act()
        hints, self.hints = self.hints, []
        return hints

    def stop(self) -> None:
        self.step()
        self.round = None
        self.act()

    def done(self) -> None:
        self.round = None
        self.held.clear()
        self.was_done = True


class Hints:
    """The guest as a `HintSource`."""

    def __init__(self, guest: Guest) -> None:
        self.begin, self.stop, self.done = guest.begin, guest.stop, guest.done
        self.take = guest.take_hints


SETTINGS = MigrationSettings(
    downtime_ns=20 * PAGE_NS, timeout_ns=4000 * PAGE_NS, on_timeout=OnTimeout.FORCE
)
VERIFYING = replace(SETTINGS, verifies=True)


def make_passes(
    guest: Guest, settings: MigrationSettings = SETTINGS, *, hints: bool = True
) -> Passes:
    found = HintFilter(Hints(guest), sees_writes=True) if hints else None
    return Passes(
        guest, np.ones(PAGES, bool), settings, guest.clock, hints=found, observe=guest.told.append
    )


def lost_pages(guest: Guest) -> list[int]:
    """Pages in use whose copy is not what they hold."""
    return np.flatnonzero((guest.copy != guest.content) & ~guest.is_free).tolist()


@pytest.mark.parametrize("hints", [True, False])
def test_no_page_in_use_is_lost_whatever_the_guest_does(hints: bool) -> None:
    left_out = 0
    for seed in range(HISTORIES):
        guest = Guest(seed, FakeClock())
        passes = make_passes(guest, VERIFYING, hints=hints)
        passes.run()
        assert lost_pages(guest) == [], f"seed {seed}"
        assert guest.is_compared[~guest.is_free].all(), f"seed {seed}"
        assert guest.was_committed
        assert not guest.was_done, "DONE is told at the destination, not here"
        left_out += passes.hinted_pages
    assert bool(left_out) is hints


def test_a_migration_that_breaks_leaves_the_guest_running_with_all_it_has() -> None:
    for seed in range(HISTORIES):
        guest = Guest(seed, FakeClock())
        passes = make_passes(guest)
        guest.fails_at = 1 + seed % 60
        try:
            passes.run()
        except MigrationError:
            assert not guest.is_stopped, f"seed {seed}"
            assert not guest.was_committed
            if guest.rounds:
                assert guest.was_done, f"seed {seed}"
                assert not guest.held
        assert not guest.is_tracked


class _Reuser(Guest):
    """Hints one page, and uses it again at once with what it held before."""

    page = 50

    def take_hints(self, wait_ns: int) -> list[tuple[int, PageRuns]]:
        del wait_ns
        if self.rounds > 1 or not self.is_free[self.page]:
            return []
        self.is_free[self.page] = False
        self.guest_log[self.page] = True
        return [(self.rounds, merge_pfns(np.array([self.page], np.uint64)))]


def test_a_hinted_page_that_is_filled_with_the_same_bytes_is_sent() -> None:
    """No comparison would show that it was used again."""
    guest = _Reuser(1, FakeClock())
    guest.eagerness, guest.is_free[guest.page] = 0, True
    passes = make_passes(guest)
    passes.run()
    assert passes.hinted_pages == 1
    assert guest.copy[guest.page] == guest.content[guest.page]


class _Latecomer(Guest):
    """Its device tells hints of the round before once more."""

    def take_hints(self, wait_ns: int) -> list[tuple[int, PageRuns]]:
        stale = merge_pfns(np.arange(DEVICE_PAGES, PAGES, dtype=np.uint64))
        return [*super().take_hints(wait_ns), (self.rounds - 1, stale)]


def test_late_hints_of_an_older_round_are_not_applied() -> None:
    for seed in range(50):
        guest = _Latecomer(seed, FakeClock())
        make_passes(guest).run()
        assert lost_pages(guest) == [], f"seed {seed}"


def test_hints_are_refused_where_writes_are_not_seen() -> None:
    guest = Guest(3, FakeClock())
    with pytest.raises(MigrationError, match="filled with the same bytes would be lost"):
        HintFilter(Hints(guest), sees_writes=False)


class _Forgetful(Guest):
    """The first page of each log is lost, as a fault of the tracking would lose it."""

    def read_guest_log(self) -> PageRuns:
        runs = super().read_guest_log()
        return PageRuns(runs.first_pfns[1:], runs.pages[1:])


def test_a_page_that_was_not_sent_again_is_found_by_comparing_and_the_guest_stays() -> None:
    found = 0
    for seed in range(40):
        guest = _Forgetful(seed, FakeClock())
        passes = make_passes(guest, VERIFYING)
        try:
            passes.run()
        except MigrationError:
            found += 1
            assert not guest.is_stopped
        else:  # nobody can know of a page that was left out that it was used again
            assert passes.left_out[lost_pages(guest)].all(), f"seed {seed}"
    assert found > 20


def test_comparing_is_refused_where_post_copy_may_follow() -> None:
    with pytest.raises(MigrationError, match="compared"):
        make_passes(Guest(4, FakeClock()), replace(VERIFYING, postcopy=True), hints=False)


def test_hints_are_refused_where_post_copy_may_follow() -> None:
    with pytest.raises(MigrationError, match="exclude each other"):
        make_passes(Guest(4, FakeClock()), MigrationSettings(postcopy=True))


def test_a_guest_that_writes_too_much_is_given_up() -> None:
    guest = Guest(5, FakeClock())
    passes = make_passes(guest, MigrationSettings(downtime_ns=0, timeout_ns=1000 * PAGE_NS))
    with pytest.raises(MigrationError, match=r"not done after .* can be sent"):
        passes.run()
    assert not guest.is_stopped
    assert guest.was_done
    assert len(guest.told) > 2


def test_a_guest_that_writes_too_much_is_slowed_down_until_it_fits() -> None:
    guest = Guest(6, FakeClock())
    make_passes(guest, MigrationSettings(downtime_ns=2 * PAGE_NS, throttles=True)).run()
    assert guest.told[-2].throttle_percent >= 50
    assert lost_pages(guest) == []


def test_the_bandwidth_is_kept_while_the_guest_runs() -> None:
    """A quarter of what the channel takes, so three quarters of the time nothing is sent."""
    guest = Guest(7, FakeClock())
    guest.eagerness = 0
    settings = MigrationSettings(bandwidth_bytes_per_s=250_000_000)
    make_passes(guest, settings, hints=False).run()
    assert guest.paused_ns == pytest.approx(3 * PAGES * PAGE_NS, rel=0.01)


def test_passes_are_told_with_what_they_did() -> None:
    guest = Guest(8, FakeClock())
    passes = make_passes(guest)
    passes.run()
    assert [one.number for one in guest.told] == list(range(1, len(guest.told) + 1))
    assert guest.told[0].had_pages == PAGES
    assert sum(one.sent_bytes for one in guest.told) == passes.sent_bytes
    assert sum(one.hinted_pages for one in guest.told) == passes.hinted_pages
