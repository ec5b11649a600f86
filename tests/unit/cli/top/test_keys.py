"""Keys, by the bytes that terminals send."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet.cli.top.keys import KeyReader


@pytest.mark.parametrize(
    ("data", "keys"),
    [
        (b"q", ["q"]),
        (b"\x1b[A\x1b[B\x1bOA", ["up", "down", "up"]),
        (b"\x1b[5~\x1b[6~", ["page up", "page down"]),
        (b"12\x7f\r", ["1", "2", "backspace", "enter"]),
        ("数é".encode(), ["数", "é"]),
        (b"\x1b[200~x", ["x"]),
        (b"\x00\x01\xff\xc3(", ["("]),
    ],
)
def test_each_key_is_told_whether_its_bytes_come_at_once_or_one_by_one(
    data: bytes, keys: list[str]
) -> None:
    assert KeyReader().feed(data) == keys
    reader = KeyReader()
    assert [key for byte in data for key in reader.feed(bytes([byte]))] == keys


def test_escape_is_a_key_once_nothing_follows_it() -> None:
    reader = KeyReader()
    assert reader.feed(b"\x1b") == []
    assert reader.waits
    assert reader.flush() == ["escape"]
    assert not reader.waits
    assert reader.feed(b"[A") == ["[", "A"]


@given(st.binary())
def test_whatever_comes_is_taken(data: bytes) -> None:
    reader = KeyReader()
    for key in [*reader.feed(data), *reader.flush()]:
        assert key.isprintable()
    assert not reader.waits
