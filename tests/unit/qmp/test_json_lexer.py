"""The table of the lexer: nothing in it can make a byte cost more than two steps."""

from __future__ import annotations

from ballonet.qmp.json_lexer import _TABLE, JsonLexer, Token, _State


def test_every_byte_is_taken_from_the_start() -> None:
    assert all(isinstance(step, _State) or step.takes for step in _TABLE[_State.START])


def test_every_state_knows_every_byte() -> None:
    assert set(_TABLE) == set(_State)
    assert {len(row) for row in _TABLE.values()} == {256}


def test_a_token_beyond_the_limit_is_not_kept() -> None:
    lexer = JsonLexer(10)
    assert list(lexer.feed(b'"0123456789')) == [(Token.TOO_LONG, b"")]
    assert lexer.kept_bytes == 0


def test_a_line_is_skipped_to_its_end() -> None:
    lexer = JsonLexer(10)
    lexer.skip_line()
    assert list(lexer.feed(b'{"a" @')) == []
    assert list(lexer.feed(b"\n1,")) == [(Token.INTEGER, b"1"), (Token.PUNCTUATION, b",")]
