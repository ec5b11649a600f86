"""The packets of a debugger's serial protocol: bytes to payloads and back, and what registers are.

    packet     $ payload # and the sum of the payload's bytes as sent, modulo 256, as two digits
    escape     }, then the byte with bit 5 turned over; for $ # } and, in replies, *
    answer     + for a packet that came whole, - for one to be sent again
    break      one byte 0x03, outside any packet, stops a running machine

Over a Unix socket nothing is damaged on its way: a sum that is wrong, or a - from the other end,
means that one of the two does not speak this protocol, and nothing is sent again.
Not here: the socket, and which packet is answered by which (gdbstub).
Source: GDB manual, "Remote Serial Protocol"; QEMU gdbstub.c gdb_read_byte, put_packet.
"""

from __future__ import annotations

import re
import struct
from enum import IntEnum
from typing import Final, Self

from ballonet.errors import WireError

__all__ = ["ACKNOWLEDGED", "BREAK", "PacketReader", "Register", "Registers", "pack_packet"]

ACKNOWLEDGED: Final = b"+"
BREAK: Final = b"\x03"
#: QEMU's longest packet has 4,096 characters; whoever sends far more without an end is not QEMU.
_PACKET_BYTES_MAX: Final = 1 << 16
_SOURCE: Final = "GDB Remote Serial Protocol"
_TO_ESCAPE: Final = re.compile(rb"[$#}*]")
_ESCAPED: Final = re.compile(rb"}(.)", re.DOTALL)
_BIT_5: Final = 0x20
_64_BITS: Final = (1 << 64) - 1


def pack_packet(payload: bytes) -> bytes:
    """A whole packet."""
    sent = _TO_ESCAPE.sub(lambda found: b"}" + bytes((found[0][0] ^ _BIT_5,)), payload)
    return b"$%b#%02x" % (sent, sum(sent) & 0xFF)


class PacketReader:
    """Finds payloads in a stream of bytes, however it is cut."""

    def __init__(self) -> None:
        self._received = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Payloads that are whole now, in order; each is to be acknowledged.

        Raises: WireError, for bytes that belong to no packet, a sum that is wrong, a packet that
        was not understood, or one that does not end.
        """
        self._received += data
        payloads = []
        while (payload := self._take()) is not None:
            payloads.append(payload)
        if len(self._received) > _PACKET_BYTES_MAX:
            got = f"{len(self._received)} bytes"
            raise WireError("packet", got, f"must end within {_PACKET_BYTES_MAX}", _SOURCE)
        return payloads

    def _take(self) -> bytes | None:
        self._received = self._received.lstrip(ACKNOWLEDGED)
        if not self._received:
            return None
        if self._received[:1] == b"-":
            raise WireError("answer", "-", "our packets are whole", _SOURCE)
        if self._received[:1] != b"$":
            raise WireError("packet", self._received[:16], "must begin with $", _SOURCE)
        sent, end, rest = self._received[1:].partition(b"#")
        if not end or len(rest) < 2:
            return None
        if rest[:2].lower() != b"%02x" % (sum(sent) & 0xFF):
            raise WireError("sum", rest[:2], f"must be {sum(sent) & 0xFF:02x}", _SOURCE)
        self._received = rest[2:]
        return _ESCAPED.sub(lambda found: bytes((found[1][0] ^ _BIT_5,)), sent)


class Register(IntEnum):
    """Where an x86-64 register stands among those of a `g` packet, 8 bytes each."""

    RAX = 0
    RBX = 1
    RCX = 2
    RDX = 3
    RSI = 4
    RDI = 5
    RBP = 6
    RSP = 7
    R8 = 8
    R9 = 9
    R10 = 10
    R11 = 11
    R12 = 12
    R13 = 13
    R14 = 14
    R15 = 15
    RIP = 16


class Registers:
    """The general registers and the program counter of one processor, as numbers of 64 bits."""

    _LAYOUT: Final = struct.Struct(f"<{len(Register)}Q")

    def __init__(self, values: list[int]) -> None:
        self._values = values

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Read the answer to `g`; what follows these registers is left out. Raises: WireError."""
        if len(raw) < cls._LAYOUT.size:
            rule = f"must hold {len(Register)} of them"
            raise WireError("registers", f"{len(raw)} bytes", rule, "GDB i386:x86-64")
        return cls(list(cls._LAYOUT.unpack_from(raw)))

    def pack(self) -> bytes:
        """The same for `G`, which leaves registers alone that are not in it."""
        return self._LAYOUT.pack(*self._values)

    def __getitem__(self, register: Register) -> int:
        return self._values[register]

    def __setitem__(self, register: Register, value: int) -> None:
        self._values[register] = value & _64_BITS
