"""Page numbers of a message, as different guests write them."""

import numpy as np
import pytest

from ballonet.device.pfns import parse_pfns


def test_linux_sends_32_bit_numbers_and_trailing_bytes_are_ignored() -> None:
    raw = np.array([7, 0x80000000, 0xFFFFFFFF], "<u4").tobytes()
    for rest in range(4):
        assert parse_pfns(raw + bytes(rest)).tolist() == [7, 0x80000000, 0xFFFFFFFF]


def test_windows_sends_64_bit_numbers_and_page_0_is_not_among_them() -> None:
    raw = np.arange(1000, 1512, dtype="<u8").tobytes()
    assert len(raw) == 4096
    assert parse_pfns(raw).tolist() == list(range(1000, 1512))


@pytest.mark.parametrize("pfns", [[0], [0, 1], [5, 6], [1, 0, 2]])
def test_page_0_counts_where_a_guest_means_it(pfns: list[int]) -> None:
    assert parse_pfns(np.array(pfns, "<u4").tobytes()).tolist() == pfns


def test_an_empty_message_names_no_page() -> None:
    assert parse_pfns(b"").tolist() == parse_pfns(b"abc").tolist() == []
