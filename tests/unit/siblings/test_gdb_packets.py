"""Packets of a debugger's protocol, held against the GDB manual's own examples and rules."""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet.errors import WireError
from ballonet.siblings.gdb_packets import PacketReader, Register, Registers, pack_packet


def test_a_packet_ends_with_the_sum_of_its_bytes() -> None:
    assert pack_packet(b"") == b"$#00"
    assert pack_packet(b"OK") == b"$OK#9a"
    assert pack_packet(b"m80f0,40") == b"$m80f0,40#fb"


def test_bytes_with_a_meaning_are_escaped_and_the_sum_is_of_what_is_sent() -> None:
    assert pack_packet(b"}") == b"$}]#da"
    assert pack_packet(b"a$b#c") == b"$a}\x04b}\x03c#%02x" % (sum(b"a}\x04b}\x03c") & 0xFF)


@given(st.lists(st.binary(max_size=40), max_size=6), st.data())
def test_payloads_come_back_however_the_stream_is_cut(
    payloads: list[bytes], data: st.DataObject
) -> None:
    stream = b"".join(b"+" + pack_packet(payload) for payload in payloads)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=8))
    reader, found, start = PacketReader(), [], 0
    for end in [*sorted(cuts), len(stream)]:
        found += reader.feed(stream[start:end])
        start = end
    assert found == payloads


@pytest.mark.parametrize(
    "stream",
    [b"$OK#9b", b"$OK#zz", b"-", b"+-", b"OK", b"$OK#9a?", b"$" + bytes(1 << 17)],
    ids=["sum", "no digits", "again", "again later", "no packet", "rubbish behind", "no end"],
)
def test_what_qemu_never_sends_is_refused(stream: bytes) -> None:
    with pytest.raises(WireError):
        PacketReader().feed(stream)


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(stream: bytes) -> None:
    with suppress(WireError):
        PacketReader().feed(stream)


def test_registers_are_found_where_gdb_has_them() -> None:
    values = list(range(100, 100 + 17))
    behind = b"eflags, segments, floating point"
    registers = Registers.parse(struct.pack("<17Q", *values) + behind)
    assert registers[Register.RAX] == 100
    assert [registers[one] for one in (Register.RBX, Register.RCX, Register.RDX)] == [101, 102, 103]
    assert registers[Register.RSI] == 104
    assert registers[Register.RIP] == 116
    registers[Register.RCX] = -1
    registers[Register.RIP] += 1
    assert struct.unpack("<17Q", registers.pack()) == (100, 101, (1 << 64) - 1, *values[3:16], 117)


def test_too_few_registers_are_refused() -> None:
    with pytest.raises(WireError):
        Registers.parse(bytes(17 * 8 - 1))
