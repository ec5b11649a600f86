"""Sizes as people write and read them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet.errors import SettingsError
from ballonet.units import (
    bytes_to_pages,
    format_bytes,
    format_short_bytes,
    pages_to_bytes,
    parse_bytes,
)

LIMITS = (0, 1 << 44)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        *(("4096B", 4096), ("512M", 512 << 20), ("1.5GiB", 3 << 29), (" 2 g ", 2 << 30)),
        *(("1kB", 1024), ("0", 0), ("0.0", 0), ("0M", 0)),
    ],
)
def test_sizes_are_powers_of_1024(text: str, size_bytes: int) -> None:
    assert parse_bytes(text, key="--memory", limits=LIMITS) == size_bytes


@pytest.mark.parametrize(
    "text", ["", "M", "-1M", "1e9", "5X", "0x10", "1.M", "٣M", "99999T", "12iB", "9" * 5000 + "M"]
)
def test_what_is_no_size_is_refused_by_name(text: str) -> None:
    with pytest.raises(SettingsError, match="--memory"):
        parse_bytes(text, key="--memory", limits=LIMITS)


@pytest.mark.parametrize("number", ["512", "1.5", "536870912"])
def test_a_number_without_a_unit_is_refused_with_what_it_may_mean(number: str) -> None:
    with pytest.raises(SettingsError) as refused:
        parse_bytes(number, key="SIZE", limits=LIMITS)
    meanings = f"a unit: {number}M, {number}K or, in bytes, {number}B"
    assert str(refused.value) == f"SIZE: got '{number}', expected {meanings}"


@given(st.integers(0, 2**32 - 1))
def test_pages_and_bytes_are_inverse(pages: int) -> None:
    assert bytes_to_pages(pages_to_bytes(pages)) == pages
    assert bytes_to_pages(pages_to_bytes(pages) + 4095) == pages


def test_sizes_are_shown_in_human_units() -> None:
    assert [format_bytes(n) for n in (0, 1023, 1024, 819_200_000, 5 << 40)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "781.2 MiB",
        "5.0 TiB",
    ]


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        *((0, "0"), (-5, "0"), (12, "12B"), (1023, "1023B"), (1024, "1.00K"), (200 << 20, "200M")),
        *((1023 << 20, "1023M"), (5 << 28, "1.25G"), (99 << 30, "99.0G"), (2**64 - 1, "16.0E")),
    ],
)
def test_a_size_for_a_narrow_column(size_bytes: int, text: str) -> None:
    assert format_short_bytes(size_bytes) == text


@given(st.integers(-(2**64), 2**64))
def test_a_size_for_a_narrow_column_has_five_letters_at_most(size_bytes: int) -> None:
    assert len(format_short_bytes(size_bytes)) <= 5
