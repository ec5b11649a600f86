"""A connection to QEMU's test protocol: registers, ports, memory and interrupt lines."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Final

from ballonet.errors import GuestError
from ballonet.qtest.lines import Answer, InterruptLine, command, parse_line

__all__ = ["QtestClient"]

_ANSWER_S: Final = 30.0


class QtestClient:
    """Owns the socket QEMU connected to."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._received = b""
        self.raised: Final[set[int]] = set()  #: interrupt lines that are up
        self.edges = 0  #: times a line went up

    def close(self) -> None:
        """Hang up, which ends QEMU."""
        self._sock.close()

    def read(self, verb: str, address: int) -> int:
        """One of readb, readw, readl, readq, inb, inw, inl. Raises: GuestError."""
        return self._ask(command(verb, address)).number

    def write(self, verb: str, address: int, value: int) -> None:
        """One of writeb, writew, writel, writeq, outb, outw, outl. Raises: GuestError."""
        self._ask(command(verb, address, value))

    def intercept(self, path: str) -> None:
        """Hear the lines that go into an interrupt controller. Raises: GuestError."""
        self._ask(f"irq_intercept_in {path}\n".encode())

    def listen(self, wait_s: float = 0.0) -> None:
        """Take in interrupt lines that came without a command; wait so long for the first."""
        self._sock.settimeout(wait_s)
        with suppress(BlockingIOError, TimeoutError):
            while True:
                self._receive()
                self._sock.settimeout(0)
        while b"\n" in self._received:
            self._take_line()

    def _ask(self, line: bytes) -> Answer:
        self._sock.settimeout(_ANSWER_S)
        try:
            self._sock.sendall(line)
            while True:
                while b"\n" not in self._received:
                    self._receive()
                answer = self._take_line()
                if answer is not None:
                    break
        except OSError as error:
            raise GuestError(f"QEMU is gone: {error}") from error
        if not answer.is_ok:
            raise GuestError(f"QEMU refuses {line.decode().strip()}: {answer.text}")
        return answer

    def _take_line(self) -> Answer | None:
        line, _, self._received = self._received.partition(b"\n")
        said = parse_line(line)
        if isinstance(said, InterruptLine):
            if said.is_raised:
                self.raised.add(said.number)
                self.edges += 1
            else:
                self.raised.discard(said.number)
            return None
        return said

    def _receive(self) -> None:
        data = self._sock.recv(1 << 16)
        if not data:
            raise GuestError("QEMU has ended")
        self._received += data
