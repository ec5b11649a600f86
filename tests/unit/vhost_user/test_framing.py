"""Messages out of a stream, in whatever pieces it comes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet.errors import WireError
from ballonet.vhost_user.framing import Framer
from ballonet.vhost_user.messages import (
    FDS_MAX,
    HEADER,
    PAYLOAD_MAX,
    Message,
    pack_request,
)

messages = st.lists(st.tuples(st.integers(0, 100), st.binary(max_size=300)), max_size=8)


@given(messages, st.data())
def test_messages_arrive_whole_in_whatever_pieces_the_stream_comes(
    sent: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    stream = b"".join(pack_request(code, payload) for code, payload in sent)
    framer, got = Framer(), list[Message]()
    while stream:
        size = data.draw(st.integers(1, framer.wanted))
        piece, stream = stream[:size], stream[size:]
        message = framer.feed(piece, ())
        if message is not None:
            got.append(message)
            assert not framer.inside_message
    assert [(one.code, one.payload) for one in got] == sent


def test_never_more_is_wanted_than_the_rest_of_one_message() -> None:
    framer = Framer()
    assert framer.wanted == HEADER.size
    framer.feed(HEADER.pack(1, 1, 8)[:5], ())
    assert (framer.wanted, framer.inside_message) == (HEADER.size - 5, True)
    framer.feed(HEADER.pack(1, 1, 8)[5:], ())
    assert (framer.wanted, framer.inside_message) == (8, True)
    framer.feed(b"1234", ())
    assert framer.wanted == 4


def test_descriptors_belong_to_the_message_they_came_with() -> None:
    framer = Framer()
    first, second = pack_request(5, b"12345678"), pack_request(6)
    assert framer.feed(first[: HEADER.size], (7, 8)) is None
    done = framer.feed(first[HEADER.size :], (9,))
    assert done is not None
    assert done.fds == (7, 8, 9)
    after = framer.feed(second, ())
    assert after is not None
    assert after.fds == ()


def test_descriptors_are_counted_over_all_pieces_of_a_message() -> None:
    framer = Framer()
    raw = pack_request(5, bytes(FDS_MAX + 1))
    framer.feed(raw[: HEADER.size], ())
    for fd in range(FDS_MAX):
        framer.feed(raw[:1], (fd,))
    with pytest.raises(WireError, match="fds"):
        framer.feed(raw[:1], (FDS_MAX,))


@pytest.mark.parametrize("flags", [0, 2, 3, 1 | 4, 1 | 16])
def test_flags_of_another_version_or_of_a_reply_are_refused(flags: int) -> None:
    with pytest.raises(WireError, match="flags"):
        Framer().feed(HEADER.pack(1, flags, 0), ())


def test_a_payload_beyond_the_limit_is_refused_before_it_is_waited_for() -> None:
    framer = Framer()
    assert framer.feed(HEADER.pack(1, 1, PAYLOAD_MAX), ()) is None
    with pytest.raises(WireError, match="payload size"):
        Framer().feed(HEADER.pack(1, 1, PAYLOAD_MAX + 1), ())
