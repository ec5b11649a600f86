"""A migration as a monitor tells it: whatever it tells, and what is made of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet.errors import MonitorError
from ballonet.vms.migration_progress import (
    MigrationLook,
    MigrationProgress,
    MigrationRates,
    MigrationStage,
    parse_look,
)

MIB = 1 << 20
RAM: dict[str, Any] = {
    "total": 1024 * MIB,
    "remaining": 512 * MIB,
    "transferred": 300 * MIB,
    "duplicate": 1000,
    "normal": 76800,
    "normal-bytes": 300 * MIB,
    "dirty-pages-rate": 256,
    "dirty-sync-count": 2,
    "page-size": 4096,
    "mbps": 805.3,
}
REPLY: dict[str, Any] = {
    "status": "active",
    "total-time": 3500,
    "expected-downtime": 300,
    "ram": RAM,
}


def test_a_reply_is_read_in_bytes_and_seconds() -> None:
    assert parse_look(REPLY) == MigrationLook(
        status="active",
        total_bytes=1024 * MIB,
        remaining_bytes=512 * MIB,
        transferred_bytes=300 * MIB,
        zero_pages=1000,
        normal_bytes=300 * MIB,
        dirty_bytes_per_s=MIB,
        passes=2,
        total_time_s=3.5,
        expected_downtime_s=0.3,
    )


def test_before_any_migration_there_is_none() -> None:
    look = parse_look({})
    assert (look, look.stage, look.stage.is_over) == (MigrationLook(), MigrationStage.NONE, True)


@pytest.mark.parametrize(
    ("status", "stage", "is_over"),
    [
        ("setup", MigrationStage.BEFORE, False),
        ("active", MigrationStage.BEFORE, False),
        ("device", MigrationStage.BEFORE, False),
        ("cancelling", MigrationStage.BEFORE, False),
        ("something newer", MigrationStage.BEFORE, False),
        ("postcopy-active", MigrationStage.AFTER, False),
        ("postcopy-recover", MigrationStage.AFTER, False),
        ("postcopy-paused", MigrationStage.SPLIT, True),
        ("completed", MigrationStage.COMPLETED, True),
        ("cancelled", MigrationStage.CANCELLED, True),
        ("failed", MigrationStage.FAILED, True),
    ],
)
def test_a_status_says_where_the_guest_is(
    status: str, stage: MigrationStage, *, is_over: bool
) -> None:
    look = parse_look({"status": status})
    assert (look.stage, look.stage.is_over) == (stage, is_over)


@pytest.mark.parametrize(
    "reply",
    [
        None,
        3,
        [],
        "completed",
        {"status": 1},
        {"status": "active", "ram": [1]},
        {"status": "active", "ram": {"total": "much"}},
        {"status": "active", "ram": {"total": 1.5}},
        {"status": "active", "ram": {"remaining": True}},
        {"status": "active", "ram": {"transferred": 1 << 64}},
        {"status": "active", "total-time": "long"},
        {"status": "failed", "error-desc": 7},
    ],
)
def test_a_reply_of_another_shape_is_refused(reply: object) -> None:
    with pytest.raises(MonitorError, match="query-migrate"):
        parse_look(reply)


def test_figures_that_cannot_be_are_clamped_and_end_nothing() -> None:
    look = parse_look(
        {"status": "active", "total-time": -5, "ram": RAM | {"remaining": 1 << 50, "duplicate": -9}}
    )
    assert (look.remaining_bytes, look.zero_pages, look.total_time_s) == (1024 * MIB, 0, 0.0)
    assert parse_look({"ram": {"remaining": -1, "total": 0}}).remaining_bytes == 0


def test_a_reason_is_one_line_that_commands_no_terminal() -> None:
    look = parse_look(
        {"status": "failed\x1b", "error-desc": "no\n  way\r\n\x1b[31m" + "x" * 10_000}
    )
    assert look.reason.startswith("no way �[31mx")
    assert len(look.reason) == 400
    assert look.status == "failed�"


def look_of(remaining: int, sent: int = 0, dirty: int = 0, **more: Any) -> MigrationLook:  # noqa: ANN401
    return MigrationLook(
        "active",
        total_bytes=1000,
        remaining_bytes=remaining,
        transferred_bytes=sent,
        dirty_bytes_per_s=dirty,
        **more,
    )


def seen(*looks: tuple[float, MigrationLook]) -> MigrationProgress:
    rates = MigrationRates(0.0)
    return [rates.see(at_s, look) for at_s, look in looks][-1]


def test_speeds_are_of_the_last_seconds_and_the_end_is_where_all_is_sent() -> None:
    progress = seen((0.0, look_of(1000)), (1.0, look_of(900, 50)), (2.0, look_of(800, 100)))
    assert (progress.sent_bytes_per_s, progress.done_bytes_per_s) == (50, 100)
    assert (progress.eta_s, progress.elapsed_s) == (8.0, 2.0)
    assert progress.fraction == pytest.approx(0.2)


def test_what_the_guest_writes_meanwhile_puts_the_end_off() -> None:
    """800 left at 100 a second while 50 a second are written: 8 s, 4 s, 2 s, ... = 16 s."""
    looks = (0.0, look_of(1000)), (2.0, look_of(800, 200, dirty=50))
    assert seen(*looks).eta_s == 16.0


@pytest.mark.parametrize("dirty", [100, 101, 1 << 63])
def test_a_guest_that_writes_as_fast_as_can_be_sent_has_no_end(dirty: int) -> None:
    assert seen((0.0, look_of(1000)), (2.0, look_of(800, 200, dirty=dirty))).eta_s is None


def test_a_guest_that_runs_elsewhere_writes_nothing_that_must_be_sent_again() -> None:
    gone = MigrationLook(
        "postcopy-active", total_bytes=1000, remaining_bytes=800, dirty_bytes_per_s=500
    )
    assert seen((0.0, look_of(1000)), (2.0, gone)).eta_s == 8.0


def test_another_pass_takes_nothing_back_of_what_was_done() -> None:
    progress = seen(
        (0.0, look_of(400)), (1.0, look_of(0)), (2.0, look_of(300)), (2.5, look_of(200))
    )
    assert progress.done_bytes_per_s == 200  # 400 and 100 within 2.5 s


def test_only_the_window_counts_and_never_less_than_two_looks() -> None:
    progress = seen(
        (0.0, look_of(1000)), (1.0, look_of(100, 900)), (5.0, look_of(90, 910)), (9.0, look_of(82))
    )
    assert progress.done_bytes_per_s == 2.0


def test_at_the_first_look_nothing_is_known() -> None:
    progress = seen((0.0, look_of(1000)))
    assert (progress.sent_bytes_per_s, progress.eta_s) == (0.0, None)
    assert seen((0.0, MigrationLook("setup")), (1.0, MigrationLook("setup"))).eta_s is None
    assert seen((1.0, MigrationLook("setup"))).fraction == 0.0


number = st.integers(-(1 << 64) + 1, (1 << 64) - 1)


@given(
    st.lists(
        st.tuples(
            st.floats(0, 1e6),
            st.fixed_dictionaries(
                {name: number for name in RAM if name != "mbps"}, optional={"extra": st.text()}
            ),
        ),
        max_size=8,
    )
)
def test_whatever_figures_come_progress_makes_sense(
    told: list[tuple[float, dict[str, Any]]],
) -> None:
    rates = MigrationRates(0.0)
    for at_s, ram in sorted(told, key=lambda one: one[0]):
        progress = rates.see(at_s, parse_look({"status": "active", "ram": ram}))
        assert 0 <= progress.fraction <= 1
        assert progress.sent_bytes_per_s >= 0 <= progress.done_bytes_per_s
        assert progress.eta_s is None or progress.eta_s >= 0
