"""Reading never fails, writing never fails, and the guest owns only its own fields."""

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
