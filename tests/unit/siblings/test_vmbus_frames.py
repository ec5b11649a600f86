"""Frames of the port behind which a real hv_balloon is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet.errors import WireError
from ballonet.siblings.vmbus_serial import FrameReader

messages = st.lists(st.binary(min_size=1, max_size=40), max_size=8)


def framed(message: bytes) -> bytes:
    return len(message).to_bytes(4, "little") + message


@given(messages, st.data())
def test_messages_come_out_whole_wherever_the_stream_is_cut(
    sent: list[bytes], data: st.DataObject
) -> None:
    stream = b"".join(map(framed, sent))
    reader, taken = FrameReader(), []
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        reader.feed(stream[:cut])
        stream = stream[cut:]
        while (message := reader.take()) is not None:
            taken.append(message)
    assert taken == sent


@pytest.mark.parametrize("length", [0, 4097, 1 << 31, (1 << 32) - 1])
def test_a_length_that_no_message_has_is_refused_before_the_message_is_there(length: int) -> None:
    reader = FrameReader()
    reader.feed(framed(b"fine") + length.to_bytes(4, "little"))
    assert reader.take() == b"fine"
    with pytest.raises(WireError):
        reader.take()


def test_the_longest_message_is_taken() -> None:
    reader = FrameReader()
    reader.feed(framed(bytes(4096)))
    assert reader.take() == bytes(4096)
