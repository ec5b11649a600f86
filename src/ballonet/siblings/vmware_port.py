"""A real vmw_balloon whose calls are answered: QEMU's guest, stopped at each by its debugger port.

    the guest       in (%dx), %eax   with eax = 0x456c6d6f, edx = 0x5670, ecx = command,
                                     rbx and rsi = its two arguments
    stops there  ─▶ registers are read  ─▶ VmwareHost.call
    goes on      ◀─ eax = status, rbx (of START: rcx) = result, rip = behind the instruction

QEMU itself has no such port: a call that nobody answers reads as all ones, which the driver takes
for an error and tries again.  The guest stands during a call, so nothing of it moves meanwhile.
Not here: what a call does (vmware), the debugger's protocol (gdbstub).
Source: Linux drivers/misc/vmw_balloon.c __vmballoon_cmd.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from ballonet.errors import GuestError
from ballonet.siblings.gdb_packets import Register, Registers
from ballonet.siblings.gdbstub import GdbStub
from ballonet.siblings.told_calls import answer_call
from ballonet.vmware.calls import MAGIC, PORT, Call, Command
from ballonet.vmware.host import VmwareHost

__all__ = ["ModuleText", "VmwarePort"]

_IN: Final = 0xED  #: the instruction, which is one byte
_32_BITS: Final = 0xFFFF_FFFF
#: The driver has 12 KiB.
_TEXT_BYTES_MAX: Final = 1 << 16
#: Looked at to know that the guest's memory is what we took for it, at each end of each region.
_SAMPLE_BYTES: Final = 1024


@dataclass(frozen=True, slots=True)
class ModuleText:
    """Where a module's instructions lie in the guest, by virtual addresses."""

    address: int
    length: int


class VmwarePort:
    """Of one guest, whose memory the host has."""

    def __init__(self, stub: GdbStub, host: VmwareHost) -> None:
        self._stub, self._host = stub, host

    def fileno(self) -> int:
        """Readable when `serve` has something to do."""
        return self._stub.fileno()

    def start(self, text: ModuleText) -> None:
        """Have the machine stop at each call from now on; it stands meanwhile, and runs then.

        Raises: GuestError, if the host's memory is not this guest's or the text has no call.
        """
        self._stub.attach()
        self._check_memory()
        length = min(text.length, _TEXT_BYTES_MAX)
        code = self._stub.read_memory(text.address, length)
        places = [text.address + offset for offset, byte in enumerate(code) if byte == _IN]
        if not places:
            raise GuestError(f"no call is in {length} bytes of module text at {text.address:#x}")
        # Some are no instructions but parts of others, where nothing ever stops.
        for place in places:
            self._stub.set_breakpoint(place)
        self._stub.resume()

    def serve(self) -> bool:
        """Answer the call at which the guest has stopped; False: it runs. Raises: GuestError."""
        if not self._stub.take_stop():
            return False
        registers = self._stub.read_registers()
        if _is_call(registers):
            self._answer(registers)
            self._stub.write_registers(registers)
        else:
            self._stub.clear_breakpoint(registers[Register.RIP])
        self._stub.resume()
        return True

    def close(self) -> None:
        """Leave the guest running, if it is still there, and its calls to nobody.

        What waits is dropped while the guest stands: without a host its driver can be unloaded, and
        frees its pages then.
        """
        with suppress(GuestError):
            self._stub.interrupt()
        self._host.detach()
        with suppress(GuestError):
            self._stub.detach()

    def _answer(self, registers: Registers) -> None:
        command = registers[Register.RCX] & _32_BITS
        call = Call(command, registers[Register.RBX], registers[Register.RSI])
        answer = answer_call(self._host, call)
        registers[Register.RAX] = answer.status
        place = Register.RCX if command == Command.START else Register.RBX
        registers[place] = answer.result
        registers[Register.RIP] += 1

    def _check_memory(self) -> None:
        """Pages of any other memory than the guest's must not be dropped. Raises: GuestError."""
        memory = self._host.given.memory
        if memory is None:
            raise GuestError("the host has no guest memory to work on")
        with self._stub.physical_memory():
            for region in memory.table.regions:
                for gpa in (region.gpa, region.gpa + region.size - _SAMPLE_BYTES):
                    if self._stub.read_memory(gpa, _SAMPLE_BYTES) != memory.view(
                        gpa, _SAMPLE_BYTES
                    ):
                        raise GuestError(f"what is shared at {gpa:#x} is not the guest's memory")


def _is_call(registers: Registers) -> bool:
    return registers[Register.RAX] & _32_BITS == MAGIC and registers[Register.RDX] & 0xFFFF == PORT
