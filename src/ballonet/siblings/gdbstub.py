"""QEMU's debugger port, from the debugger's side: a machine stopped, looked at, sent on.

While the machine runs it says nothing until it stops; while it stands, every packet has one answer.
Addresses are virtual ones of the processor as it stands, or physical ones where asked for so.
Not here: what the stops mean (vmware_port), the bytes of a packet (gdb_packets).
Source: GDB manual, "Remote Serial Protocol"; QEMU gdbstub.c: handle_read_mem, handle_insert_bp,
handle_write_all_regs, handle_set_qemu_phy_mem_mode.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ballonet.errors import GuestError, WireError
from ballonet.siblings.gdb_packets import (
    ACKNOWLEDGED,
    BREAK,
    PacketReader,
    Registers,
    pack_packet,
)

__all__ = ["GdbStub"]

_ANSWER_S: Final = 60.0
_RECEIVE_BYTES: Final = 1 << 16
#: In hexadecimal digits it must fit QEMU's packet of 4,096 characters.
_MEMORY_BYTES: Final = 1024
_HARDWARE_BREAKPOINT: Final = 1  #: nothing is written to the guest's memory
_STOPPED: Final = (b"T", b"S")
_OK: Final = b"OK"


class GdbStub:
    """Owns a socket that is connected to QEMU; used by one thread at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._reader = PacketReader()
        self._received: deque[bytes] = deque()

    def attach(self) -> None:
        """Return when the machine stands, as QEMU has it for whoever connects. Raises: GuestError.

        Breakpoints of whoever was connected before are gone.
        """
        self._send(pack_packet(b"?"))
        self._wait_for_stop()

    def fileno(self) -> int:
        """Readable when there is something to `take_stop`."""
        return self._sock.fileno()

    def close(self) -> None:
        """Hang up; a machine that stands goes on standing."""
        self._sock.close()

    def resume(self) -> None:
        """Let the machine run; it says no more until it stops. Raises: GuestError."""
        self._send(pack_packet(b"c"))

    def take_stop(self) -> bool:
        """Whether the running machine has stopped meanwhile; does not wait. Raises: GuestError."""
        if not self._received:
            self._receive(0.0)
        if not self._received:
            return False
        self._wait_for_stop()
        return True

    def interrupt(self) -> None:
        """Stop a machine that runs; returns when it stands. Raises: GuestError."""
        self._send(BREAK)
        self._wait_for_stop()

    def detach(self) -> None:
        """Have a standing machine's breakpoints forgotten, and let it run. Raises: GuestError."""
        self._expect_ok(b"D")

    def read_registers(self) -> Registers:
        """Of the processor that stopped. Raises: GuestError."""
        return Registers.parse(self._hex(self._ask(b"g")))

    def write_registers(self, registers: Registers) -> None:
        """QEMU takes as many as there are, and leaves the rest as it is. Raises: GuestError."""
        self._expect_ok(b"G" + registers.pack().hex().encode())

    def read_memory(self, address: int, length: int) -> bytes:
        """Bytes of the guest's memory. Raises: GuestError, if they cannot be read."""
        return b"".join(
            self._hex(self._ask(b"m%x,%x" % (start, size)))
            for start, size in _pieces(address, length)
        )

    def set_breakpoint(self, address: int) -> None:
        """Stop before the instruction there, at each pass. Raises: GuestError."""
        self._expect_ok(b"Z%d,%x,1" % (_HARDWARE_BREAKPOINT, address))

    def clear_breakpoint(self, address: int) -> None:
        """Take back `set_breakpoint`. Raises: GuestError."""
        self._expect_ok(b"z%d,%x,1" % (_HARDWARE_BREAKPOINT, address))

    @contextmanager
    def physical_memory(self) -> Iterator[None]:
        """Addresses are physical inside the block. Raises: GuestError."""
        self._expect_ok(b"Qqemu.PhyMemMode:1")
        yield
        self._expect_ok(b"Qqemu.PhyMemMode:0")

    def _expect_ok(self, payload: bytes) -> None:
        answer = self._ask(payload)
        if answer != _OK:
            what = payload[:24].decode(errors="replace")
            raise GuestError(f"QEMU's debugger port refuses {what}: {answer!r}")

    def _ask(self, payload: bytes) -> bytes:
        """The answer of a standing machine; a stop may have been on its way to us yet."""
        self._send(pack_packet(payload))
        while (answer := self._next()).startswith(_STOPPED):
            pass
        return answer

    def _next(self) -> bytes:
        while not self._received:
            self._receive(_ANSWER_S)
        return self._received.popleft()

    def _wait_for_stop(self) -> None:
        payload = self._next()
        if not payload.startswith(_STOPPED):
            raise GuestError(f"QEMU's machine has ended, or makes no sense: {payload[:24]!r}")

    def _hex(self, payload: bytes) -> bytes:
        try:
            return bytes.fromhex(payload.decode())
        except ValueError as error:  # E and a number, which are no pairs of digits
            raise GuestError(f"QEMU's debugger port says {payload[:24]!r}") from error

    def _send(self, data: bytes) -> None:
        try:
            self._sock.settimeout(_ANSWER_S)
            self._sock.sendall(data)
        except OSError as error:
            raise GuestError(f"QEMU's debugger port is gone: {error}") from error

    def _receive(self, wait_s: float) -> None:
        try:
            self._sock.settimeout(wait_s)
            data = self._sock.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except TimeoutError as error:
            raise GuestError(f"QEMU's debugger port says nothing for {wait_s} s") from error
        except OSError as error:
            raise GuestError(f"QEMU's debugger port is gone: {error}") from error
        if not data:
            raise GuestError("QEMU's debugger port is gone")
        try:
            payloads = self._reader.feed(data)
        except WireError as error:
            raise GuestError(f"QEMU's debugger port makes no sense: {error}") from error
        if payloads:
            self._received.extend(payloads)
            self._send(ACKNOWLEDGED * len(payloads))


def _pieces(address: int, length: int) -> Iterator[tuple[int, int]]:
    """What goes into one packet each: address and bytes."""
    for offset in range(0, length, _MEMORY_BYTES):
        yield address + offset, min(_MEMORY_BYTES, length - offset)
