"""A machine with a debugger's port, as far as the port says anything: written from GDB's manual.

It stands or runs, has memory, registers and breakpoints, and answers whatever is asked; a test has
it come to a breakpoint.  It answers on a thread of its own, as QEMU does.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from typing import Final

REGISTERS: Final = 24  # what comes behind the general ones is there, and means nothing here
RIP: Final = 16
NAMES: Final = ("rax", "rbx", "rcx", "rdx", "rsi")


class DebuggedMachine:
    """Everything a test may look at; `asked` is what came, in order."""

    def __init__(self, port: socket.socket) -> None:
        self._port = port
        self.asked: list[str] = []
        self.memory: dict[int, bytes] = {}  #: virtual, by where each piece begins
        self.physical: dict[int, bytes] = {}
        self.registers = list(range(REGISTERS))
        self.breakpoints: set[int] = set()
        self.runs = True
        self._is_physical = False

    def stop_at(self, address: int, **registers: int) -> None:
        """The running machine comes to a breakpoint."""
        assert self.runs
        assert address in self.breakpoints
        for name, value in registers.items():
            self.registers[NAMES.index(name)] = value
        self.registers[RIP] = address
        self.runs = False
        self.say("T05thread:01;")

    def say(self, text: str) -> None:
        """Something that a debugger gets to hear; not all of them wait for it."""
        self._send(f"${text}#{sum(text.encode()) % 256:02x}".encode())

    def serve(self) -> None:
        """Answer until the debugger hangs up."""
        received = b""
        while data := self._receive():
            received += data
            while received:
                if received[:1] in b"+":
                    received = received[1:]
                elif received[:1] == b"\x03":
                    received = received[1:]
                    self._interrupt()
                elif b"#" in received and len(received.partition(b"#")[2]) >= 2:
                    packet, _, rest = received.partition(b"#")
                    assert int(rest[:2], 16) == sum(packet[1:]) % 256
                    received = rest[2:]
                    self._send(b"+")
                    self._obey(packet[1:].decode())
                else:
                    break

    def _send(self, data: bytes) -> None:
        with suppress(BrokenPipeError):
            self._port.sendall(data)

    def _receive(self) -> bytes:
        with suppress(ConnectionResetError):  # it left without reading all that was said
            return self._port.recv(4096)
        return b""

    def _interrupt(self) -> None:
        if self.runs:
            self.runs = False
            self.say("T02thread:01;")

    def _obey(self, text: str) -> None:
        self.asked.append(text)
        kind, rest = text[:1], text[1:]
        if text == "?":
            self.runs = False
            self.breakpoints.clear()
            self.say("T05thread:01;")
        elif text == "c":
            assert not self.runs
            self.runs = True
        elif text == "D":
            self.breakpoints.clear()
            self.runs = True
            self.say("OK")
        elif text.startswith("Qqemu.PhyMemMode:"):
            self._is_physical = text.endswith("1")
            self.say("OK")
        elif kind == "g":
            self.say(struct.pack(f"<{REGISTERS}Q", *self.registers).hex())
        elif kind == "G":
            values = struct.unpack(f"<{len(rest) // 16}Q", bytes.fromhex(rest))
            self.registers[: len(values)] = values
            self.say("OK")
        elif kind == "m":
            address, length = (int(number, 16) for number in rest.split(","))
            self.say(self._read(address, length))
        elif text.startswith(("Z1,", "z1,")):
            address = int(rest.split(",")[1], 16)
            (self.breakpoints.add if kind == "Z" else self.breakpoints.discard)(address)
            self.say("OK")
        else:
            self.say("")

    def _read(self, address: int, length: int) -> str:
        pieces = self.physical if self._is_physical else self.memory
        for start, piece in pieces.items():
            if start <= address and address + length <= start + len(piece):
                return piece[address - start :][:length].hex()
        return "E14"


@contextmanager
def debugged_machine() -> Iterator[tuple[DebuggedMachine, socket.socket]]:
    """A machine, and the socket its debugger gets; the debugger hangs up before the end."""
    ours, theirs = socket.socketpair()
    with theirs:
        machine = DebuggedMachine(theirs)
        thread = Thread(target=machine.serve)
        thread.start()
        try:
            with ours:
                yield machine, ours
        finally:
            ours.close()
            thread.join()
