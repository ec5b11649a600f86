"""Frames between a host and its guest: what is none is noticed before anything is taken for it."""

from __future__ import annotations

import struct

import pytest
from tests.support.sibling_guest import CALL, HELLO, MESSAGE, REFUSAL, WELCOME, frame, hello

from ballonet.errors import WireError
from ballonet.memory.regions import Region
from ballonet.siblings.framing import Frame, FrameKind, Framer, Hello, pack_frame

REGION = (0x1000, 0x2000, 0x3000)


def frames(raw: bytes) -> list[Frame]:
    """Every frame of some bytes, which end with one."""
    framer, found = Framer(), []
    framer.feed(raw)
    while (one := framer.take()) is not None:
        found.append(one)
    assert not framer.inside_frame
    return found


def body(raw: bytes) -> bytes:
    """What is in the one frame of some bytes."""
    (one,) = frames(raw)
    return one.body


def test_a_frame_is_as_the_layout_says() -> None:
    assert pack_frame(FrameKind.MESSAGE, b"abc") == b"\x03\0\0\0\x07\0\0\0abc"


def test_frames_are_found_however_they_arrive() -> None:
    raw = frame(WELCOME) + frame(MESSAGE, b"abc") + frame(CALL, bytes(20))
    framer, found = Framer(), []
    for at in range(len(raw)):
        framer.feed(raw[at : at + 1])
        assert framer.has_frame is (at + 1 in (8, 19, len(raw)))
        if framer.has_frame:
            found.append(framer.take())
    assert found == frames(raw)
    assert [one.kind for one in frames(raw)] == [
        FrameKind.WELCOME,
        FrameKind.MESSAGE,
        FrameKind.CALL,
    ]


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        *((0, 0), (8, 0), (1 << 31, 0), (WELCOME, 1), (CALL, 19), (CALL, 21), (MESSAGE, 4097)),
        *((HELLO, 23), (HELLO, 24 + 8 * 24 + 1), (REFUSAL, 201), (MESSAGE, (1 << 32) - 1)),
    ],
)
def test_what_is_no_frame_is_refused_by_its_header_alone(kind: int, size: int) -> None:
    framer = Framer()
    framer.feed(struct.pack("<II", size, kind))
    assert framer.has_frame
    with pytest.raises(WireError):
        framer.take()


def test_a_hello_says_which_balloon_and_which_memory() -> None:
    raw = body(hello("vmware", [REGION, (1 << 32, 1 << 30, 0)]))
    said = Hello.parse(raw)
    assert said == Hello(
        "vmware",
        (Region(0x1000, 0x2000, 0x1000, 0x3000), Region(1 << 32, 1 << 30, 1 << 32, 0)),
    )
    assert said.pack() == raw


@pytest.mark.parametrize(
    "raw",
    [
        hello("vmware", [REGION], magic=b"balloons"),
        hello("vmware", [REGION], version=2),
        hello("virtio", [REGION]),
        hello("", [REGION]),
        hello("vmware\0x", [REGION]),
        hello("vmware", [REGION], count=0),
        hello("vmware", []),
        hello("vmware", [REGION], count=2),
        hello("vmware", [REGION, REGION], count=1),
        hello("vmware", [REGION] * 8, count=0xFFFF_FFFF),
    ],
)
def test_a_hello_that_cannot_be_is_refused(raw: bytes) -> None:
    with pytest.raises(WireError):
        Hello.parse(body(raw))


def test_a_long_reason_is_cut_and_an_odd_one_can_be_shown() -> None:
    assert frames(pack_frame(FrameKind.REFUSAL, b"x" * 1000))[0].reason == "x" * 200
    assert Frame(FrameKind.REFUSAL, b"no\x1b[31m\xff").reason == "no?[31m�"
