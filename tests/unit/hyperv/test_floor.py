"""The floor, at the corners that Linux's comment names and between them."""

from __future__ import annotations

import pytest

from ballonet.hyperv.floor import balloon_floor

MIB = 256


@pytest.mark.parametrize(
    ("total_mib", "kept_mib"),
    [
        *[(0, 8), (16, 16), (32, 24), (128, 72), (512, 168), (2048, 360), (8192, 744)],
        *[(32768, 1512), (64, 40), (1024, 232), (4096, 488), (131072, 488 + 4096)],
    ],
)
def test_the_floor_is_linux_s(total_mib: int, kept_mib: int) -> None:
    assert balloon_floor(total_mib * MIB) == kept_mib * MIB


def test_it_has_no_steps() -> None:
    for corner_mib in (128, 512, 2048, 8192):
        corner = corner_mib * MIB
        assert balloon_floor(corner) - balloon_floor(corner - 1) in (0, 1)
