"""A guest that goes before its memory, against the worst moments: no page is lost or comes twice.

The guest of test_migration_passes goes on at a destination that lacks pages.  It reads and writes
there between any two steps, waits where a page is missing, and its device looks at its own pages
without waiting.  Channels break, with what is on its way in them.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import numpy as np
import pytest
from tests.property.test_migration_passes import DEVICE_PAGES, PAGE_NS, PAGES, SETTINGS, Guest
from tests.support.clock import FakeClock

from ballonet.errors import MigrationError
from ballonet.memory.runs import PageRuns, merge_pfns
from ballonet.migration import passes as passes_before
from ballonet.migration import postcopy_passes as module_under_test
from ballonet.migration.passes import Passes
from ballonet.migration.postcopy import FaultAnswer, MissingPages, Run, ServedPages
from ballonet.migration.postcopy_passes import Following, Heard
from ballonet.migration.settings import MigrationSettings, OnTimeout

HISTORIES = 250
POSTCOPY = replace(SETTINGS, downtime_ns=0, postcopy=True, on_timeout=OnTimeout.POSTCOPY)
HOLES = range(80, 88)
STEPS_MAX = 10_000
LOST = -1  # what another mapping of missing memory shows: nothing


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """The guest is small; much is to happen while it is sent."""
    monkeypatch.setattr(module_under_test, "_PIECE_PAGES", 8)
    monkeypatch.setattr(passes_before, "_PIECE_PAGES", 8)


def runs_of(pages: list[int]) -> PageRuns:
    return merge_pfns(np.array(pages, np.uint64))


def numbers(runs: PageRuns) -> list[int]:
    pairs = zip(runs.first_pfns.tolist(), runs.pages.tolist(), strict=True)
    return [pfn for first, pages in pairs for pfn in range(first, first + pages)]


class FarGuest(Guest):
    """Both ends of a guest that may go early; a `Source` and a `PostcopySource`."""

    def __init__(self, seed: int, called_at: int = -1) -> None:
        super().__init__(seed, FakeClock())
        self.content[HOLES] = 0
        self.is_free[:] = False
        self.called_at = called_at  # at which step somebody wants it to go
        self.is_loaded = self.is_handed_over = self.is_gone = self.is_complete = False
        self.missing: MissingPages
        self.announced: list[int] = []
        self.truth = np.zeros(PAGES, np.int64)  # what the guest knows of its memory
        self.waits_at: int | None = None
        self.said: deque[int] = deque()  # wanted, on the way back
        self.on_the_way: deque[list[tuple[int, int]]] = deque()
        self.sent: list[list[int]] = []  # after it was announced
        self.waited_ns: list[int] = []
        self.breaks = 0  # to come, after the hand-over

    @property
    def is_asked(self) -> bool:
        return 0 <= self.called_at <= self.steps

    def write(self, page: int, log: np.ndarray) -> None:
        if page not in HOLES:
            super().write(page, log)

    def step(self) -> None:
        if self.is_handed_over and self.breaks and self.random.random() < 0.3:
            self.breaks -= 1
            self.said.clear()
            self.on_the_way.clear()
            raise MigrationError("the channel broke")
        super().step()
        self.live()

    def send_holes(self) -> None:
        super().send_holes()
        self.copy[HOLES] = 0

    def needed_at_once(self) -> PageRuns:
        return runs_of(list(range(DEVICE_PAGES)))

    def holes(self) -> PageRuns:
        return runs_of(list(HOLES))

    def announce(self, missing: PageRuns) -> None:
        assert self.is_stopped
        self.step()
        self.announced = numbers(missing)
        self.truth[:] = self.content
        self.copy[self.announced] = LOST
        is_missing = np.zeros(PAGES, np.bool_)
        is_missing[self.announced] = True
        self.missing = MissingPages(is_missing)

    def send(self, runs: PageRuns) -> int:
        if not self.is_stopped or not self.announced:
            return super().send(runs)
        self.step()
        pages = numbers(runs)
        self.sent.append(pages)
        self.on_the_way.append([(page, int(self.content[page])) for page in pages])
        self.clock.advance_ns(len(pages) * PAGE_NS)
        self.live()
        return len(pages) * 4096

    def hear(self, wait_ns: int) -> Heard:
        self.step()
        assert self.steps < STEPS_MAX, "it does not come to an end"
        if wait_ns and not self.said:
            self.waited_ns.append(wait_ns)
            self.clock.advance_ns(wait_ns)
        wanted = list(self.said)
        self.said.clear()
        self.is_loaded |= self.random.random() < 0.3
        return Heard(wanted, self.is_loaded)

    def hand_over(self) -> None:
        assert self.is_loaded
        assert not self.is_handed_over
        self.step()
        self.is_handed_over = True

    def go(self) -> None:
        assert self.is_handed_over, "it would run twice"
        self.step()
        self.is_gone = True

    def end(self) -> None:
        self.step()
        while self.on_the_way:
            self.arrive()
        assert not self.missing.left_pages
        self.is_complete = True

    def live(self) -> None:
        """What arrives, and what the guest and its device do at the destination."""
        for _ in range(int(self.random.integers(4))):
            if self.on_the_way and self.random.random() < 0.7:
                self.arrive()
        if not self.is_gone:
            return
        device_page = int(self.random.integers(DEVICE_PAGES))
        assert self.copy[device_page] == self.truth[device_page], "the device sees another page"
        if self.waits_at is None:
            self.waits_at = int(self.random.integers(PAGES))
        self.use(self.waits_at)

    def use(self, page: int) -> None:
        if self.copy[page] == LOST:
            if self.missing.fault(page) is FaultAnswer.ASK:
                self.said.append(page)
            return
        self.waits_at = None
        assert self.copy[page] == self.truth[page], f"page {page} is wrong"
        if self.random.random() < 0.5:
            self.copy[page] = self.truth[page] = self.random.integers(1, 4)

    def arrive(self) -> None:
        for page, content in self.on_the_way.popleft():
            for _ in self.missing.arrived(Run(page, 1)):
                self.copy[page] = content


def make_passes(guest: FarGuest, settings: MigrationSettings = POSTCOPY) -> Passes:
    return Passes(
        guest,
        np.ones(PAGES, bool),
        settings,
        guest.clock,
        hints=None,
        postcopy=guest,
        observe=guest.told.append,
    )


def follow(guest: FarGuest, passes: Passes) -> int:
    """The rest, over as many channels as that needs; returns how many."""
    following, channels = passes.following, 1
    assert following is not None
    while True:
        try:
            following.rest()
        except MigrationError:
            channels += 1
            is_missing = np.zeros(PAGES, np.bool_)
            is_missing[guest.announced] = True
            served = ServedPages(is_missing)
            served.resume(guest.missing.received())
            guest.said.extend(numbers(guest.missing.asked()))
            following = Following(guest, served, POSTCOPY, guest.clock)
        else:
            return channels


def assert_all_is_there(guest: FarGuest) -> None:
    assert guest.is_complete
    assert guest.is_gone
    assert np.flatnonzero(guest.copy != guest.truth).tolist() == []


def test_no_page_is_lost_on_the_way_after_a_guest_whenever_it_is_called() -> None:
    followed = 0
    for seed in range(HISTORIES):
        guest = FarGuest(seed, called_at=int(np.random.default_rng(seed).integers(30)))
        passes = make_passes(guest)
        passes.run()
        assert guest.is_handed_over, f"seed {seed}"
        assert not guest.was_committed
        followed += len(guest.announced)
        follow(guest, passes)
        assert_all_is_there(guest)
    assert followed > HISTORIES


def test_channels_that_break_at_any_step_cost_no_page() -> None:
    channels = 0
    for seed in range(HISTORIES):
        guest = FarGuest(seed, called_at=12)
        guest.breaks = 5
        passes = make_passes(guest)
        passes.run()
        channels += follow(guest, passes)
        assert_all_is_there(guest)
    assert channels > 2 * HISTORIES


def test_a_guest_stays_whatever_breaks_before_it_left_and_never_comes_back_after() -> None:
    stayed = 0
    for seed in range(HISTORIES):
        guest = FarGuest(seed, called_at=10)
        guest.fails_at = 1 + seed % 40
        passes = make_passes(guest)
        try:
            passes.run()
        except MigrationError:
            stayed += 1
            assert not guest.is_handed_over
            assert not guest.is_stopped
        else:
            assert guest.is_stopped
        assert not guest.is_tracked
    assert 0 < stayed < HISTORIES


def test_nobody_goes_early_who_is_not_called_and_has_time_enough() -> None:
    guest = FarGuest(1)
    passes = make_passes(guest, replace(POSTCOPY, downtime_ns=20 * PAGE_NS))
    passes.run()
    assert passes.following is None
    assert guest.was_committed
    assert not guest.announced


def test_when_time_is_over_the_guest_goes_and_the_rest_follows() -> None:
    guest = FarGuest(2)
    passes = make_passes(guest)
    passes.run()
    assert guest.clock.now_ns() >= SETTINGS.timeout_ns  # type: ignore[operator]
    assert guest.announced
    follow(guest, passes)
    assert_all_is_there(guest)


def test_a_call_counts_for_nothing_where_post_copy_was_not_agreed_on() -> None:
    guest = FarGuest(3, called_at=0)
    passes = make_passes(guest, SETTINGS)
    passes.run()
    assert passes.following is None
    assert guest.was_committed


def test_the_first_pass_is_whole_and_the_guest_goes_right_after_it() -> None:
    guest = FarGuest(4, called_at=0)
    passes = make_passes(guest)
    passes.run()
    assert [one.number for one in guest.told] == [1, 2]
    assert guest.told[0].sent_bytes == PAGES * 4096


def test_what_the_device_uses_comes_before_the_guest_and_a_hole_never() -> None:
    for seed in range(50):
        guest = FarGuest(seed, called_at=5)
        passes = make_passes(guest)
        passes.run()
        assert not set(guest.announced) & {*range(DEVICE_PAGES), *HOLES}
        follow(guest, passes)
        assert not {page for pages in guest.sent for page in pages} & {*HOLES}


def _following(guest: FarGuest, missing: list[int], settings: MigrationSettings) -> Following:
    guest.is_stopped = guest.is_handed_over = guest.is_loaded = True
    guest.copy[:] = guest.content
    guest.announce(runs_of(missing))
    is_missing = np.zeros(PAGES, np.bool_)
    is_missing[missing] = True
    return Following(guest, ServedPages(is_missing), settings, guest.clock)


class _Reader(FarGuest):
    """Wants one page after the other, as soon as it may go on."""

    wants = (77, 42, 15)

    def live(self) -> None:
        while self.on_the_way:
            self.arrive()
        lacks = [page for page in self.wants if self.copy[page] == LOST]
        if self.is_gone and lacks and not self.said:
            self.use(lacks[0])


def test_what_somebody_waits_for_goes_by_itself_before_all_that_nobody_waits_for() -> None:
    guest = _Reader(5)
    following = _following(guest, list(range(10, 80)), POSTCOPY)
    following.rest()
    assert guest.sent[:3] == [[page] for page in guest.wants]
    assert following.wanted_pages == 3
    assert_all_is_there(guest)


def test_the_bandwidth_holds_back_what_nobody_waits_for_and_nothing_else() -> None:
    """A quarter of what the channel takes; three quarters of the time nothing is sent."""
    settings = replace(POSTCOPY, postcopy_bandwidth_bytes_per_s=250_000_000)
    guest = _Reader(6)
    following = _following(guest, list(range(8, 80)), settings)
    following.rest()
    assert guest.sent[:3] == [[page] for page in guest.wants]
    pages_before_the_last = sum(map(len, guest.sent[:-1]))
    assert sum(guest.waited_ns) == pytest.approx(3 * pages_before_the_last * PAGE_NS, rel=0.01)
    assert_all_is_there(guest)
