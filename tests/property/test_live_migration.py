"""Our guest moves in the middle of everything, and every byte of it is compared.

Source stopped, destination not begun: a page may differ only if it is in the balloon, held for a
hint, or free by the guest kernel's own table.  Those are filled with rubbish before the guest goes
on there, and its kernel looks at every page it uses.
"""

from __future__ import annotations

import numpy as np
import pytest
from tests.property.test_driver_and_device import History
from tests.support.live_move import LiveMove, pages_that_differ
from tests.support.moving import GARBAGE, move
from tests.support.pair import Pair

from ballonet.errors import MigrationError
from ballonet.kernel.frames import Frames, Use

HISTORIES = 24
MOVES = 3


class MovingHistory(History):
    """A history that moves live."""

    def go_on(self) -> None:
        if self.chance(0.4):
            actions = self.actions()[:-1]  # all but to move
            actions[int(self.random.integers(len(actions)))]()
        self.interleave()

    def move_live(self, fails_at: int = -1) -> LiveMove | None:
        """Returns the migration, with the guest stopped; None, if it failed and goes on here."""
        migration = LiveMove(self, fails_at)
        try:
            migration.passes.run()
        except MigrationError:
            return None
        return migration

    def arrive(self, migration: LiveMove) -> None:
        """The guest goes on with what was copied of it, and rubbish where nothing counts."""
        fill(migration, undefined_frames(self.pair))
        self.pair = move(self.pair, migration.copy)
        kernel = self.pair.kernel
        self.areas = [kernel.areas[area.number] for area in self.areas]
        self.moves += 1


def undefined_frames(pair: Pair) -> Frames:
    """What the guest does not count on."""
    uses = [Use.BALLOON, Use.HELD]
    if not pair.kernel.settings.poison:  # else a free page holds its poison
        uses.append(Use.NONE)
    return pair.kernel.table.used_as(*uses)


def fill(migration: LiveMove, frames: Frames) -> None:
    words = np.frombuffer(migration.copy, np.uint64)
    words = words.reshape(-1, migration.pair.kernel.page_bytes // 8)
    words[frames] = GARBAGE


def wrong_pages(migration: LiveMove) -> list[int]:
    """Pages that the guest counts on and that are not what they were."""
    pair = migration.pair
    scale = pair.kernel.page_bytes // 4096
    undefined = undefined_frames(pair)
    allowed = (undefined[:, None] * scale + np.arange(scale)).ravel()
    return [int(page) for page in np.setdiff1d(pages_that_differ(migration), allowed)]


@pytest.mark.parametrize("part", range(4))
def test_no_byte_is_lost_on_the_way_and_no_page_after_it(part: int) -> None:
    moves = hinted = 0
    share = HISTORIES // 4
    for seed in range(part * share, (part + 1) * share):
        history = MovingHistory(seed)
        for _ in range(MOVES):
            for _ in range(int(history.random.integers(8))):
                history.go_on()
            migration = history.move_live()
            if migration is not None:
                assert wrong_pages(migration) == [], f"seed {seed}"
                hinted += migration.passes.hinted_pages
                history.arrive(migration)
        history.settle()
        moves += history.moves
    assert moves > share
    assert hinted > 0


def test_a_migration_that_breaks_anywhere_costs_the_guest_nothing() -> None:
    failed = 0
    for seed in range(16):
        history = MovingHistory(1000 + seed)
        for fails_at in (1 + seed, 31 + 2 * seed):
            history.go_on()
            migration = history.move_live(fails_at)
            if migration is not None:
                history.arrive(migration)
            else:
                failed += 1
        history.settle()
    assert failed > 10
