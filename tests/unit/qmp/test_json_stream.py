"""Values cut out of a stream, however it comes, and within limits however it is meant."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet.qmp.json_stream import DEPTH_MAX, MESSAGE_BYTES_MAX, JsonError, JsonStream

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
objects = st.dictionaries(st.text(), values, max_size=4)


@given(st.lists(st.tuples(objects, st.sampled_from(["", "\n", "\r\n", " "]))), st.data())
def test_values_arrive_whole_in_whatever_pieces_the_stream_comes(
    sent: list[tuple[dict[str, object], str]], data: st.DataObject
) -> None:
    raw = "".join(json.dumps(value) + end for value, end in sent).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=8)))
    stream = JsonStream()
    found = []
    for start, stop in zip([0, *cuts], [*cuts, len(raw)], strict=True):
        found += stream.feed(raw[start:stop])
    assert found == [value for value, _ in sent]


@pytest.mark.parametrize(
    "garbage", [b"hello\n", b"}\n", b"{]\n", b'{"a" 1}\n', b'{"a": "\xff"}\n', b"{'a': 1\\}\n"]
)
def test_garbage_is_an_error_and_what_comes_after_its_line_is_read(garbage: bytes) -> None:
    stream = JsonStream()
    found = stream.feed(garbage + b'\n{"a": 1}\n')
    assert found[-1] == {"a": 1}
    assert all(isinstance(value, JsonError) for value in found[:-1])
    assert len(found) > 1


def test_brackets_without_end_cost_one_error_and_no_memory() -> None:
    stream = JsonStream()
    found = []
    for _ in range(1000):
        found += stream.feed(b"[" * 100_000)
    assert [str(error) for error in found] == ["JSON nesting depth limit exceeded"]
    assert len(stream._buffer) <= 200_000
    assert stream.feed(b'\n{"a": 1}') == [{"a": 1}]


@pytest.mark.parametrize(
    "filler", [b'{"a": "' + b"x" * 10**6, b'{"a": [1' + b",1" * 10**6, b"x" * 10**6]
)
def test_a_value_without_end_costs_one_error_and_no_memory(filler: bytes) -> None:
    stream = JsonStream()
    found = []
    for at in range(0, len(filler), 4096):
        found += stream.feed(filler[at : at + 4096])
    assert len(found) == 1
    assert isinstance(found[0], JsonError)
    assert len(stream._buffer) <= MESSAGE_BYTES_MAX + 4096
    assert stream.feed(b'\n{"a": 1}') == [{"a": 1}]


def test_nesting_is_counted_to_the_limit() -> None:
    deep = b"[" * DEPTH_MAX + b"]" * DEPTH_MAX
    assert not isinstance(JsonStream().feed(deep)[0], JsonError)
    assert isinstance(JsonStream().feed(b"[" + deep + b"]")[0], JsonError)


@given(st.lists(st.binary(max_size=60), max_size=10))
def test_no_input_ends_the_stream(pieces: list[bytes]) -> None:
    stream = JsonStream()
    for piece in pieces:
        for value in stream.feed(piece):
            assert isinstance(value, (JsonError, dict, list))
    stream.feed(b'\n"\n"\n')  # out of whatever string was open
    stream.feed(b"[" * (DEPTH_MAX + 1) + b"\n")  # and of whatever brackets
    assert stream.feed(b'{"back": 1}')[-1:] == [{"back": 1}]
