"""How little a guest may be asked to keep."""

from __future__ import annotations

import pytest

from ballonet.vms.floor import floor_of

MIB, GIB = 1 << 20, 1 << 30


@pytest.mark.parametrize(
    ("ram", "logical", "available", "floor"),
    [
        (512 * MIB, 512 * MIB, 440 * MIB, 136 * MIB),  # 72 in use and an 8th
        (512 * MIB, 300 * MIB, 228 * MIB, 136 * MIB),  # whatever its balloon holds
        (128 * MIB, 128 * MIB, 100 * MIB, 44 * MIB),
        (8 * GIB, 8 * GIB, 6 * GIB, 2 * GIB + 8 * GIB // 25),
        (1 * GIB, 1 * GIB, 1 * GIB - 200 * MIB, 264 * MIB),
        (512 * MIB, 512 * MIB, 0, 512 * MIB),  # never more than all
        (512 * MIB, 512 * MIB, 1 << 60, 64 * MIB),  # a lie hurts the liar
    ],
)
def test_it_is_what_the_guest_uses_and_a_margin(
    ram: int, logical: int, available: int, floor: int
) -> None:
    assert floor_of(ram, logical, available).floor_bytes == floor


def test_without_statistics_it_is_a_share() -> None:
    floor = floor_of(1000 * MIB, 600 * MIB, None)
    assert floor.floor_bytes == 350 * MIB
    assert "350.0 MiB, 35 % of its memory" in str(floor)


def test_it_names_the_numbers() -> None:
    assert str(floor_of(512 * MIB, 300 * MIB, 228 * MIB)) == (
        "of its 300.0 MiB the guest uses 72.0 MiB; with 64.0 MiB to spare it is asked to keep at"
        " least 136.0 MiB"
    )
