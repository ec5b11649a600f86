"""/proc/buddyinfo, as kernels print it."""

from __future__ import annotations

import pytest

from ballonet.lab.buddyinfo import free_blocks

TWO_ZONES = """\
Node 0, zone      DMA      1      0      0      1
Node 0, zone    DMA32    159     47      2    580
"""


def test_zones_are_added_up() -> None:
    assert free_blocks(TWO_ZONES) == [160, 47, 2, 581]


@pytest.mark.parametrize("text", ["nonsense\n", "Node 0, zone DMA 1 two\n"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"buddyinfo|invalid literal"):
        free_blocks(text)
