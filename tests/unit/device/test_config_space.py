"""Reading never fails, writing never fails, and the guest owns only its own fields."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet.device.config_space import ConfigSpace


def space() -> ConfigSpace:
    config = ConfigSpace()
    config.num_pages = 0x01020304
    return config


@given(st.integers(0, 300), st.integers(0, 256))
def test_any_read_is_answered_with_zeros_where_nothing_exists(offset: int, length: int) -> None:
    data = space().read(offset, length, cmd_id=0)
    whole = b"\x04\x03\x02\x01" + bytes(600)
    assert data == whole[offset : offset + length]


@given(st.integers(0, 300), st.binary(max_size=256))
def test_no_write_moves_the_target(offset: int, data: bytes) -> None:
    config = space()
    config.write(offset, data, poison=True)
    assert config.num_pages == 0x01020304
    assert config.read(8, 4, cmd_id=0) == bytes(4)


def test_actual_counts_when_its_last_byte_is_written() -> None:
    config = space()
    assert not config.write(4, b"\x11", poison=False)
    assert not config.write(5, b"\x22\x33", poison=False)
    assert config.actual_pages == 0
    assert config.write(7, b"\x44", poison=False)
    assert config.actual_pages == 0x44332211
    assert config.read(4, 4, cmd_id=0) == b"\x11\x22\x33\x44"


def test_the_same_actual_again_is_no_change() -> None:
    config = space()
    assert config.write(4, b"\x05\0\0\0", poison=False)
    assert not config.write(4, b"\x05\0\0\0", poison=False)


def test_a_front_end_that_writes_everything_back_changes_only_actual_and_poison() -> None:
    config = space()
    stale = bytes([9] * 4 + [7, 0, 0, 0] + [9] * 4 + [0xAA] * 4)
    assert config.write(0, stale, poison=False)
    assert (config.num_pages, config.actual_pages, config.poison.value) == (0x01020304, 7, 0)
    config.write(0, stale, poison=True)
    assert config.poison.value == 0xAAAAAAAA


def test_a_reset_keeps_the_target_and_actual_and_a_lost_guest_only_the_target() -> None:
    config = space()
    config.write(4, b"\x07\0\0\0" + bytes(4) + b"\xaa\xaa\xaa\xaa", poison=True)
    config.reset()
    assert (config.num_pages, config.actual_pages, config.poison.value) == (0x01020304, 7, 0)
    config.forget_guest()
    assert (config.num_pages, config.actual_pages) == (0x01020304, 0)


def filled() -> ConfigSpace:
    config = space()
    config.write(4, b"\x07\0\0\0", poison=False)
    return config


def test_a_driver_that_goes_on_after_its_connection_was_lost_has_the_balloon_it_had() -> None:
    config = filled()
    config.forget_guest()
    assert (config.actual_pages, config.kept_actual_pages) == (0, 7)
    config.reset()  # as at any start
    config.recognise_driver(goes_on=True)
    assert config.actual_pages == 7
    assert config.read(4, 4, cmd_id=0) == b"\x07\0\0\0"


@pytest.mark.parametrize("lost", [True, False], ids=["connection lost", "reset"])
def test_a_new_driver_has_an_empty_balloon_though_it_says_nothing(lost: bool) -> None:
    config = filled()
    (config.forget_guest if lost else config.reset)()
    config.recognise_driver(goes_on=False)
    assert (config.actual_pages, config.kept_actual_pages) == (0, 0)


def test_a_ring_that_starts_again_without_a_reset_says_nothing_about_the_balloon() -> None:
    config = filled()
    config.recognise_driver(goes_on=False)
    assert config.actual_pages == 7


def test_what_a_driver_said_after_the_reset_counts_more_than_where_its_ring_begins() -> None:
    config = filled()
    config.reset()
    config.write(4, b"\x09\0\0\0", poison=False)
    config.recognise_driver(goes_on=False)
    assert config.actual_pages == 9


def test_a_restored_actual_is_believed_only_if_the_driver_goes_on() -> None:
    for goes_on, wanted in ((True, 5), (False, 0)):
        config = ConfigSpace()
        config.restore_actual(5)
        assert config.actual_pages == 5
        config.recognise_driver(goes_on=goes_on)
        assert config.actual_pages == wanted
