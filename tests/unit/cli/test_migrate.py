"""A migration in words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ballonet.cli.migrate import _in_words, _milliseconds, _speed, _where
from ballonet.errors import SettingsError
from ballonet.vms.migration_progress import MigrationLook, MigrationOutcome, MigrationProgress

MIB = 1 << 20
LOOK = MigrationLook(
    "active", total_bytes=512 * MIB, remaining_bytes=34 * MIB, passes=2, dirty_bytes_per_s=3 * MIB
)
PROGRESS = MigrationProgress(LOOK, 4.0, 97.0 * MIB, 120.0 * MIB, 3.2)


def test_progress_says_where_it_is_and_how_fast() -> None:
    assert _where(PROGRESS) == "pass 2: 34.0 MiB left"
    assert _speed(PROGRESS) == "3 s left, 97.0 MiB/s sent, 3.0 MiB/s written"


def test_what_is_not_known_is_not_said() -> None:
    begun = MigrationProgress(MigrationLook("setup"), 0.0, 0.0, 0.0, None)
    assert (_where(begun), _speed(begun)) == ("setup", "0 B/s sent")
    gone = replace(PROGRESS, look=replace(LOOK, status="postcopy-active"))
    assert _where(gone) == "postcopy-active: 34.0 MiB left"


def test_the_end_has_its_figures() -> None:
    look = replace(
        LOOK, status="completed", transferred_bytes=438 * MIB, total_time_s=4.81, downtime_s=0.121
    )
    outcome = MigrationOutcome(look, "", False, False, None, None)
    assert _in_words(outcome) == (
        "moved: 438.0 MiB sent in 4.8 s, 2 passes; the guest stood still for 121 ms"
    )
    squeezed = replace(outcome, size_put_back_at="destination")
    assert _in_words(squeezed).endswith("; its size is put back at the destination")
    bare = replace(outcome, look=MigrationLook("completed"))
    assert _in_words(bare) == "moved: 0 B sent"


@pytest.mark.parametrize("seconds", [0.0004, 2000.1])
def test_a_downtime_that_qemu_does_not_take_is_wrong_use(seconds: float) -> None:
    assert _milliseconds(0.3) == 300
    with pytest.raises(SettingsError, match="--downtime"):
        _milliseconds(seconds)
