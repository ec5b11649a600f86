"""Odd input for a monitor, each answered by every QEMU in its own way; ours has to be the same.

Not here: numbers that no double holds (QEMU answers with an `inf`, which is no JSON), and what is
beyond our limits of size and depth, which are smaller.
"""

from __future__ import annotations

from typing import Final

__all__ = ["CORPUS"]


def _with_id(text: bytes) -> bytes:
    return b'{"execute": "x", "id": ' + text + b"}"


_COMMAND: Final = _with_id(b"1")
_IDS: Final = (
    *(b"0", b"-0", b"1.5", b"1e22", b"-1E-2", b"1e+5", b"0.0", b"-0.0", b"123456789012"),
    *(b"9223372036854775807", b"9223372036854775808", b"-9223372036854775808"),
    *(b"-9223372036854775809", b"18446744073709551615", b"18446744073709551616"),
    *(b"1" * 40, b"1." + b"3" * 400, b"1e-400", b"true", b"false", b"null", b"[]", b"{}"),
    *(b'"a"', b"'a'", b"'a\"b'", b'"a\'b"', b'"\\""', b"'\\''", b'"\\\'"', b'""', b"''"),
    *(b'"\\u00e9\xc3\xa9"', b'"\\ud83d\\ude00"', b'"\xf0\x9f\x98\x80"', b'"\\u0000"', b'"\x7f"'),
    *(b'"\xc0\x80"', b'"\\b\\f\\n\\r\\t\\/\\\\"', b"[1, [2, {'a': [3]}], 4]", b"{'a': {'b': 1}}"),
    # and what is none
    *(
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"nan",
        b"inf",
        b"True",
        b"01",
        b"-01",
        b"00",
        b"-",
        b"+1",
    ),
    *(b"1.", b".5", b"1.e5", b"1e", b"1e+", b"0x10", b"1_000", b"--1", b"1-2", b"0e1"),
    *(b'"\\x"', b'"\\u12"', b'"\\u12G4"', b'"\\ud800"', b'"\\udc00"', b'"\\ud800\\u0041"'),
    *(
        b'"\\ud800x"',
        b'"\\uffff"',
        b'"\\ufffe"',
        b'"\\ufdd0"',
        b'"\\ud83f\\udffe"',
        b'"\\ud800\\n"',
    ),
    *(b'"\xe9"', b'"\xc1\xbf"', b'"\xed\xa0\x80"', b'"\xef\xbf\xbf"', b'"\xf8\x88\x80\x80\x80"'),
    *(
        b'"\xff"',
        b'"\xfe"',
        b'"a\nb"',
        b'"a\tb"',
        b'"a\0b"',
        b"[1,]",
        b"[,]",
        b"[1 2]",
        b"[1}",
        b"[}",
    ),
    *(b"{'a': 1,}", b"{'a'}", b"{'a' 1}", b"{'a': }", b"{1: 2}", b"{[]: 2}", b"{'a': 1 'b': 2}"),
    *(b"{'a': 1, 'a': 2}", b"{'a': 1, 'b': 1, 'a': 1}", b"{null: 1}", b"{'a': nul}", b"[nullx]"),
    *(b"/* */ 1", b"1 // x", b"%d", b"%s", b"undefined", b'u"a"', b"\xef\xbb\xbf1", b"\xc2\xa01"),
)
_PLAIN: Final = (
    *(b"hello", b"Hello", b"}", b"]", b"{]", b"[}", b"}}]]", b",", b":", b",,::", b"1", b"1 2"),
    *(b"-1 2", b'"text"', b"'text'", b"null", b"nulltrue", b"[]", b"[[]]", b"{}", b"{}{}"),
    *(b"[1, 2]", b"1[2]3", b"@#$%", b"\x00", b"\x01", b"\t\x01", b"\x7f", b"\xff", b"\xfe\xff"),
    *(b"\xc3\xa9", b"\v", b"\f", b"12a", b"a12", b"aB", b"-x", b"'a", b'"a', b"{'a", b"[1, "),
    *(b"{'a': ", b"[[[", b"\\", b"$", b"(", b"a,b", b"'a\nb'", b'"a\n'),
    *(b"{\n'execute'\n:\n'x'\n}", b"[" * 60 + b"]" * 60, b"{'a':" * 60 + b"1" + b"}" * 60),
    *(b"[" * 3 + b"}" * 3, b"{" * 3 + b"]" * 3, b"[{[{", b"{[}]", b"[{]}", b"a" * 2000),
    *(b"A" * 2000, b'{"execute": "x", "execute": "x"}', b'{"id": 1, "id": 1}'),
    *(b'{"execute": 1}', b'{"id": NaN}', b'{"execute": "x", "id": 1} trailing'),
    *(b"\xef\xbb\xbf", b"{'a': '\\", b"['\\u", b'["\\ud800\\'),
)

CORPUS: Final = (
    *(_with_id(text) for text in _IDS),
    *_PLAIN,
    *(text + _COMMAND for text in _PLAIN),
)
