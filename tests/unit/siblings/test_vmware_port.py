"""Calls in registers, answered by the host: against a machine written from GDB's manual."""

from __future__ import annotations

import mmap
import socket
from collections.abc import Iterator

import numpy as np
import pytest
from tests.support.clock import FakeClock
from tests.support.debugged_machine import DebuggedMachine, debugged_machine
from tests.support.wait import wait_until

from ballonet.balloon.facts import Discarded, Fact, MessageReceived
from ballonet.errors import GuestError
from ballonet.memory.discard import MemoryKind
from ballonet.memory.mapping import GuestMemory, MappedRegion
from ballonet.memory.regions import Region
from ballonet.siblings.gdbstub import GdbStub
from ballonet.siblings.vmware_port import ModuleText, VmwarePort
from ballonet.vmware.calls import Capability, Command, Status
from ballonet.vmware.host import VmwareHost, VmwareHostSettings

TEXT = 0xFFFF_FFFF_C000_0000
CODE = bytes.fromhex("90 ba70560000 ed c3 05ed000000")
IN = TEXT + 6
PAGES = 1024
BATCH_PFN = 7


class Served:
    """A port with its host and its machine."""

    def __init__(self, machine: DebuggedMachine, sock: socket.socket, host: VmwareHost) -> None:
        self.machine, self.host = machine, host
        self.heard: list[Fact] = []
        host.given.observers.add(self.heard.append, details=True)
        self.port = VmwarePort(GdbStub(sock), host)

    def call(self, command: int, rbx: int = 0, rsi: int = 0) -> list[int]:
        """rax, rbx, rcx, rdx, rsi after a call."""
        wait_until(lambda: self.machine.runs, 5, "the machine stands")
        registers = {"rax": 0x456C6D6F, "rbx": rbx, "rcx": command, "rdx": 0x5670, "rsi": rsi}
        self.machine.stop_at(IN, **registers)
        wait_until(self.port.serve, 5, "the call is not answered")
        wait_until(lambda: self.machine.runs, 5, "the machine stands")
        return self.machine.registers[:5]


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    region = MappedRegion.anonymous(Region(0, PAGES << 12, 0, 0), MemoryKind.SHARED_ANONYMOUS)
    memory = GuestMemory([region])
    yield memory
    memory.close()


@pytest.fixture
def served(memory: GuestMemory) -> Iterator[Served]:
    with debugged_machine() as (machine, sock):
        host = VmwareHost(FakeClock(), VmwareHostSettings(), ring_doorbell=None)
        host.attach(memory)
        machine.memory[TEXT] = CODE
        machine.physical[0] = bytes(PAGES << 12)
        one = Served(machine, sock, host)
        one.port.start(ModuleText(TEXT, len(CODE)))
        yield one


def test_it_stops_at_every_byte_that_may_be_a_call_and_nowhere_else(served: Served) -> None:
    assert served.machine.breakpoints == {IN, TEXT + 9}
    wait_until(lambda: served.machine.runs, 5, "it does not run")
    assert not served.port.serve()


def test_start_is_answered_in_rcx_and_the_guest_goes_on_behind_the_instruction(
    served: Served,
) -> None:
    rax, rbx, rcx, rdx, rsi = served.call(Command.START, rbx=0b110)
    assert (rax, rcx) == (Status.SUCCESS_WITH_CAPABILITIES, 0b110)
    assert (rbx, rdx, rsi) == (0b110, 0x5670, 0)
    assert served.machine.registers[16] == IN + 1
    facts = {"arg1": 0b110, "arg2": 0, "status": rax, "result": rcx}
    assert served.heard == [MessageReceived("start", facts)]


def test_everything_else_is_answered_in_rbx(served: Served) -> None:
    served.call(Command.START, rbx=0b110)
    served.host.set_target(123)
    rax, rbx, rcx, *_ = served.call(Command.GET_TARGET, rbx=PAGES)
    assert (rax, rbx, rcx) == (Status.SUCCESS, 123, Command.GET_TARGET)


def test_a_batch_is_read_from_the_guest_s_own_page_and_its_verdicts_stand_there(
    served: Served, memory: GuestMemory
) -> None:
    served.call(Command.START, rbx=0b110)
    served.host.set_target(2)
    page = memory.view(BATCH_PFN << 12, 24)
    page[:] = np.array([100, 5000, 101], "<u8").__lshift__(12).astype("<u8").tobytes()
    rax, rbx, *_ = served.call(Command.BATCHED_LOCK, rbx=BATCH_PFN, rsi=3)
    assert (rax, rbx) == (Status.SUCCESS, 2)
    verdicts = np.frombuffer(bytes(page), "<u8") & 0xFFF
    assert verdicts.tolist() == [Status.SUCCESS, Status.PPN_INVALID, Status.SUCCESS]
    assert served.host.actual_pages == 2
    del page


def test_the_upper_half_of_the_command_s_register_means_nothing(served: Served) -> None:
    served.call(Command.START, rbx=0b110)
    rax, *_ = served.call(Command.GET_TARGET | 7 << 32, rbx=PAGES)
    assert rax == Status.SUCCESS


def test_a_stop_that_is_no_call_is_not_answered_and_comes_no_second_time(served: Served) -> None:
    wait_until(lambda: served.machine.runs, 5, "it does not run")
    served.machine.stop_at(IN, rax=1, rdx=0x5670)
    wait_until(served.port.serve, 5, "the stop is not seen")
    wait_until(lambda: served.machine.runs, 5, "the machine stands")
    assert served.machine.registers[0] == 1
    assert served.machine.registers[16] == IN
    assert IN not in served.machine.breakpoints
    assert not served.heard


def test_a_port_that_is_closed_leaves_the_machine_running_and_never_stopped(served: Served) -> None:
    served.port.close()
    assert served.machine.runs
    assert not served.machine.breakpoints


def test_what_waits_is_dropped_before_the_guest_goes_on_without_a_host(
    served: Served, memory: GuestMemory
) -> None:
    served.call(Command.START, rbx=Capability.BASIC)
    served.host.set_target(1)
    memory.view(100 << 12, 4)[:] = b"page"
    served.call(Command.LOCK, rbx=100, rsi=1)
    ran: list[bool] = []

    def observe(fact: Fact) -> None:
        if isinstance(fact, Discarded):
            ran.append(served.machine.runs)

    served.host.given.observers.add(observe, details=True)
    served.port.close()
    assert ran == [False]
    assert bytes(memory.view(100 << 12, 4)) == bytes(4)


def test_a_guest_that_is_gone_is_left_all_the_same(served: Served) -> None:
    served.machine.say("W00")
    served.port.close()
    assert served.host.given.memory is None


def test_memory_that_is_not_the_guest_s_is_found_out_before_anything_runs(
    memory: GuestMemory,
) -> None:
    memory.view((PAGES << 12) - mmap.PAGESIZE, 8)[:] = b"not this"
    with debugged_machine() as (machine, sock):
        host = VmwareHost(FakeClock(), VmwareHostSettings(), ring_doorbell=None)
        host.attach(memory)
        machine.memory[TEXT] = CODE
        machine.physical[0] = bytes((PAGES << 12) - 1) + b"x"
        with pytest.raises(GuestError, match="not the guest's memory"):
            VmwarePort(GdbStub(sock), host).start(ModuleText(TEXT, len(CODE)))
        assert not machine.runs


def test_a_text_without_a_call_is_refused(memory: GuestMemory) -> None:
    with debugged_machine() as (machine, sock):
        host = VmwareHost(FakeClock(), VmwareHostSettings(), ring_doorbell=None)
        host.attach(memory)
        machine.memory[TEXT] = bytes(64)
        machine.physical[0] = bytes(PAGES << 12)
        with pytest.raises(GuestError, match="no call"):
            VmwarePort(GdbStub(sock), host).start(ModuleText(TEXT, 64))
