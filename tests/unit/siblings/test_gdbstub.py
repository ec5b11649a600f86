"""The debugger's side, against a machine written from the manual."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.support.debugged_machine import DebuggedMachine, debugged_machine
from tests.support.wait import wait_until

from ballonet.errors import GuestError
from ballonet.siblings.gdb_packets import Register
from ballonet.siblings.gdbstub import GdbStub

Pair = tuple[DebuggedMachine, GdbStub]


@pytest.fixture
def pair() -> Iterator[Pair]:
    with debugged_machine() as (machine, sock):
        stub = GdbStub(sock)
        stub.attach()
        yield machine, stub


def test_whoever_attaches_finds_the_machine_standing(pair: Pair) -> None:
    machine, stub = pair
    assert not machine.runs
    stub.resume()
    wait_until(lambda: machine.runs, 5, "it does not run")
    assert not stub.take_stop()
    stub.interrupt()
    assert not machine.runs


def test_a_stop_is_taken_once(pair: Pair) -> None:
    machine, stub = pair
    stub.set_breakpoint(0x1000)
    stub.resume()
    wait_until(lambda: machine.runs, 5, "it does not run")
    machine.stop_at(0x1000, rax=7)
    wait_until(stub.take_stop, 5, "no stop is seen")
    assert not stub.take_stop()
    assert stub.read_registers()[Register.RAX] == 7
    assert stub.read_registers()[Register.RIP] == 0x1000


def test_registers_that_are_written_leave_the_others_alone(pair: Pair) -> None:
    machine, stub = pair
    registers = stub.read_registers()
    registers[Register.RBX] = 0xFEED
    stub.write_registers(registers)
    expected = list(range(24))
    expected[1] = 0xFEED
    assert machine.registers == expected


def test_memory_of_any_length_is_read_in_packets_that_qemu_takes(pair: Pair) -> None:
    machine, stub = pair
    content = bytes(range(256)) * 13
    machine.memory[0xFFFF_8000_0000] = content
    assert stub.read_memory(0xFFFF_8000_0000, len(content)) == content
    assert all(len(bytes.fromhex("00" * 1024)) * 2 < 4096 for _ in machine.asked)
    assert [one for one in machine.asked if one.startswith("m")][-1] == "mffff80000c00,100"


def test_physical_memory_is_another_and_only_inside_the_block(pair: Pair) -> None:
    machine, stub = pair
    machine.memory[0x1000] = b"virtual!"
    machine.physical[0x1000] = b"physical"
    with stub.physical_memory():
        assert stub.read_memory(0x1000, 8) == b"physical"
    assert stub.read_memory(0x1000, 8) == b"virtual!"


def test_memory_that_is_not_there_is_an_error_and_no_data(pair: Pair) -> None:
    _, stub = pair
    with pytest.raises(GuestError, match="E14"):
        stub.read_memory(0x1000, 8)


def test_a_detached_machine_runs_without_breakpoints(pair: Pair) -> None:
    machine, stub = pair
    stub.set_breakpoint(0x1000)
    stub.set_breakpoint(0x2000)
    stub.clear_breakpoint(0x1000)
    assert machine.breakpoints == {0x2000}
    stub.detach()
    assert machine.runs
    assert not machine.breakpoints


def test_a_stop_that_crosses_a_question_is_no_answer_to_it(pair: Pair) -> None:
    machine, stub = pair
    machine.say("T02thread:01;")
    assert stub.read_registers()[Register.RAX] == 0


def test_a_port_that_is_gone_or_makes_no_sense_is_an_error(pair: Pair) -> None:
    machine, stub = pair
    machine.say("W00")
    with pytest.raises(GuestError, match="W00"):
        stub.attach()
    stub.close()
    with pytest.raises(GuestError, match="gone"):
        stub.resume()
