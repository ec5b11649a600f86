"""Page numbers of a message, as different guests write them."""

import numpy as np
import pytest

from ballonet.device.pfns import given_pfns, taken_pfns


def test_linux_sends_32_bit_numbers_and_a_trailing_partial_entry_gives_nothing() -> None:
    raw = np.array([7, 0x80000000, 0xFFFFFFFF], "<u4").tobytes()
    for rest in range(4):
        assert given_pfns(raw + bytes(rest)).tolist() == [7, 0x80000000, 0xFFFFFFFF]


def test_windows_sends_64_bit_numbers_and_page_0_is_not_given_with_them() -> None:
    raw = np.arange(1000, 1512, dtype="<u8").tobytes()
    assert len(raw) == 4096
    assert given_pfns(raw).tolist() == list(range(1000, 1512))


@pytest.mark.parametrize("pfns", [[0], [0, 1], [5, 6], [1, 0, 2]])
def test_page_0_is_given_where_a_guest_can_only_mean_it(pfns: list[int]) -> None:
    assert given_pfns(np.array(pfns, "<u4").tobytes()).tolist() == pfns


def test_an_empty_message_gives_no_page() -> None:
    assert given_pfns(b"").tolist() == given_pfns(b"abc").tolist() == []


@pytest.mark.parametrize("pfns", [[5, 0], [5, 0, 7, 0], [0], [5, 0, 7], [1, 2]])
def test_every_page_of_every_reading_is_taken_back(pfns: list[int]) -> None:
    taken = taken_pfns(np.array(pfns, "<u4").tobytes())
    assert taken is not None
    assert set(taken.tolist()) == set(pfns)


@pytest.mark.parametrize("raw", [b"", b"a", b"12345", bytes(4095)])
def test_what_cannot_be_read_in_full_may_take_back_any_page(raw: bytes) -> None:
    assert taken_pfns(raw) is None


def test_numbers_of_a_big_endian_guest_are_read_in_its_order() -> None:
    raw = np.array([7, 0, 9, 0], ">u4").tobytes()
    assert given_pfns(raw, big_endian=True).tolist() == [7, 0, 9, 0]
    taken = taken_pfns(raw, big_endian=True)
    assert taken is not None
    assert taken.tolist() == [7, 0, 9, 0]
