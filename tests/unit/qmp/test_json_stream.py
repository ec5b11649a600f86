"""Values cut out of a stream, however it comes, and within limits however it is meant."""

import json
import time
from types import NoneType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet.qmp.json_stream import DEPTH_MAX, MESSAGE_BYTES_MAX, JsonError, JsonStream

#: What QEMU takes: no numbers beyond 64 bits, which become doubles, and no text without a meaning.
integers = st.integers(-(2**63), 2**64 - 1)
texts = st.text(st.characters(exclude_categories=("Cs", "Cn")))
values = st.recursive(
    st.none() | st.booleans() | integers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
objects = st.dictionaries(texts, values, max_size=4)


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
    assert stream.kept_bytes == 0
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
    assert stream.kept_bytes == 0
    assert stream.feed(b'\n{"a": 1}') == [{"a": 1}]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('hello{"a": 1}', ["invalid keyword 'hello'", {"a": 1}]),
        ('Hello{"a": 1}', ["stray 'H'", {"a": 1}]),
        ('@#$%{"a": 1}', ["stray '@'", {"a": 1}]),
        ('"abc\n{"a": 1}', ["stray '\"abc\n'", {"a": 1}]),
        ('{"a": NaN}{"a": 1}', ["stray 'N'", "expecting value", {"a": 1}]),
        ('{"a": Infinity}', ["stray 'I'", "expecting value"]),
        ("[01]", ["stray '01'", "expecting value"]),
        ("1 2.5 -0 1e2 true null", [1, 2.5, 0, 100.0, True]),  # the last may go on
        ('{"a": 1, "a": 1}', ["duplicate key"]),
        ('{"a": 1, "b": 2}{1: 2}', [{"a": 1, "b": 2}, "key is not a string in object"]),
        ('{["a"]: 2}', ["key is not a string in object"]),
        ("[1 2]", ["expected separator in list"]),
        ('{"a": 1 "b"}', ["expected separator in dict"]),
        ('{"a" 1}', ["missing : in object pair"]),
        ('{"a": }[1,]{"a": 1,}', ["expecting value"] * 3),
        ("}][,:", ["expecting value"] * 2),
        ("[}", ["expecting value"]),
        ("[1}", ["expected separator in list"]),
        ('{"a": 1]', ["expected separator in dict"]),
        (r"""{'a': 'it\'s "x"'}""", [{"a": 'it\'s "x"'}]),
        (r'["\u00e9\ud83d\ude00\u0000\n\/"]', [["\u00e9\U0001f600\0\n/"]]),
        (r'["\ud800"]["\ud800\u0041"]', [r"\ud800 is not a valid Unicode character"] * 2),
        (r'["\uffff"]["\ufdd0"]["\udead"]', [
            rf"\u{code} is not a valid Unicode character" for code in ("ffff", "fdd0", "dead")
        ]),
        (r'["\u12"]', [r'\u12" is not a valid Unicode character']),
        (r'["\x"]', ["invalid escape sequence in string"]),
        ("[1e400]", ["number too large"]),
        ("[18446744073709551615]", [[2**64 - 1]]),
        ("[18446744073709551616, -9223372036854775808]", [[2.0**64, -(2**63)]]),
        ("[-9223372036854775809]", [[-(2.0**63)]]),
    ],
)  # fmt: skip
def test_what_is_odd_is_read_as_qemu_reads_it(text: str, found: list[object]) -> None:
    read = JsonStream().feed(text.encode())
    shown = [
        str(value).removeprefix("JSON parse error, ") if isinstance(value, JsonError) else value
        for value in read
    ]
    assert shown == found
    assert [type(value) for value in shown] == [type(value) for value in found]


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (b'["\xc0\x80"]', ["\0"]),
        (b'["\xc3\xa9\xf0\x9f\x98\x80"]', ["\u00e9\U0001f600"]),
        (b'["\xc1\xbf"]', None),
        (b'["\xed\xa0\x80"]', None),
        (b'["\xef\xbf\xbf"]', None),
        (b'["\xe9"]', None),
    ],
)
def test_strings_are_modified_utf8(raw: bytes, found: list[str] | None) -> None:
    (value,) = JsonStream().feed(raw)
    if found is None:
        assert str(value) == "JSON parse error, invalid UTF-8 sequence in string"
    else:
        assert value == found


def test_a_number_of_any_length_is_a_number_or_refused() -> None:
    (value,) = JsonStream().feed(b"[" + b"9" * 5000 + b"]")
    assert str(value) == "JSON parse error, number too large"
    assert JsonStream().feed(b"[1." + b"1" * 5000 + b"]") == [[1.1111111111111112]]


@pytest.mark.parametrize(
    "worst",
    [
        b'["' + rb"\'" * 31_000,
        b"['" + rb"\'" * 31_000,
        b'["' + b"'" * 62_000,
        b"1" * 64_000,
        b"1." + b"1" * 64_000 + b"e1",
        b"[" + b"1," * 31_000,
        b"[" * 60 + b"'a'," * 15_000,
        b"a" * 64_000,
        rb'["' + rb"\u00e9" * 10_000 + b'"]',
        rb'["' + rb"\ud83d" * 10_000 + b'"]',
        b"\xff" * 64_000,
        b"@{" * 32_000,
        b"]" * 64_000,
        b"{" * 64_000,
    ],
)
def test_a_line_of_the_worst_kind_costs_no_more_for_each_byte_than_a_short_one(
    worst: bytes,
) -> None:
    """A cost that grew with the square would be 64 times as much for a byte."""
    assert cost_ns(worst[:62_000]) < 16 * max(62 * cost_ns(worst[:1000]), 10_000_000)


def cost_ns(line: bytes) -> int:
    """Processor time to read a line that comes in small pieces."""
    stream, begin_ns = JsonStream(), time.process_time_ns()
    for at in range(0, len(line), 100):
        stream.feed(line[at : at + 100])
    return time.process_time_ns() - begin_ns


def test_nesting_is_counted_to_the_limit() -> None:
    deep = b"[" * DEPTH_MAX + b"]" * DEPTH_MAX
    assert not isinstance(JsonStream().feed(deep)[0], JsonError)
    assert isinstance(JsonStream().feed(b"[" + deep + b"]")[0], JsonError)


@given(st.lists(st.binary(max_size=60), max_size=10))
def test_no_input_ends_the_stream(pieces: list[bytes]) -> None:
    stream = JsonStream()
    for piece in pieces:
        for value in stream.feed(piece):
            assert isinstance(value, (JsonError, dict, list, str, int, float, NoneType))
        assert stream.kept_bytes <= MESSAGE_BYTES_MAX
    stream.feed(b'\n"\n"\n')  # out of whatever string was open
    stream.feed(b"[" * (DEPTH_MAX + 1) + b"\n")  # and of whatever brackets
    assert stream.feed(b'{"back": 1}')[-1:] == [{"back": 1}]
