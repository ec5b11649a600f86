"""Messages cut out of a stream of bytes, however it is cut itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet.errors import WireError
from ballonet.vhost_user.framing import Framer
from ballonet.vhost_user.messages import FDS_MAX, Message, pack_request

message = st.tuples(st.integers(0, 60), st.binary(max_size=60))


@given(st.lists(message, max_size=5), st.lists(st.integers(1, 300), min_size=1))
def test_any_way_of_cutting_gives_the_same_messages(
    sent: list[tuple[int, bytes]], cuts: list[int]
) -> None:
    stream = b"".join(pack_request(code, payload) for code, payload in sent)
    framer, got, at, turn = Framer(), [], 0, 0
    while at < len(stream):
        piece = min(framer.wanted, cuts[turn % len(cuts)])
        assert framer.inside_message == (at > 0 and not is_border(sent, at))
        framer.feed(stream[at : at + piece], [])
        at, turn = at + piece, turn + 1
        got += [(whole.code, whole.payload) for whole in taken(framer)]
    assert got == sent
    assert not framer.inside_message


def taken(framer: Framer) -> list[Message]:
    """All messages that are whole."""
    messages = []
    while (whole := framer.take()) is not None:
        messages.append(whole)
    return messages


def is_border(sent: list[tuple[int, bytes]], at: int) -> bool:
    """A message ends there."""
    ends, total = {0}, 0
    for _, payload in sent:
        total += 12 + len(payload)
        ends.add(total)
    return at in ends


def test_descriptors_of_all_pieces_belong_to_the_message_they_came_with() -> None:
    framer, raw = Framer(), pack_request(5, bytes(8))
    framer.feed(raw[:4], [7])
    framer.feed(raw[4:12], [])
    assert taken(framer) == []
    framer.feed(raw[12:], [8, 9])
    assert taken(framer) == [Message(5, 1, bytes(8), (7, 8, 9))]
    framer.feed(pack_request(1), [])
    assert taken(framer) == [Message(1, 1)]


def test_descriptors_of_a_read_belong_to_the_last_message_in_it() -> None:
    framer, second = Framer(), pack_request(5, bytes(8))
    framer.feed(pack_request(1) + second[:12], [7])
    assert taken(framer) == [Message(1, 1)]
    framer.feed(second[12:] + pack_request(2) + pack_request(3), [8])
    assert taken(framer) == [Message(5, 1, bytes(8), (7,)), Message(2, 1), Message(3, 1, b"", (8,))]


@pytest.mark.parametrize("more", [b"\0", pack_request(5)[1:]])
def test_more_descriptors_than_any_message_has_are_refused_at_once(more: bytes) -> None:
    framer = Framer()
    framer.feed(pack_request(5)[:1], list(range(FDS_MAX)))
    assert framer.take() is None
    framer.feed(more, [99])
    with pytest.raises(WireError, match="fds"):
        framer.take()
