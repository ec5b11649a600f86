"""Settings of a front-end that keep a balloon from working are named, in the log and by `info`."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.integration.device_under_test import SECONDS, Device
from tests.support.front_end import FrontEnd, TableRegion
from tests.support.guest_memory import MIB, GuestRam, RamRegion
from tests.support.scripts import PROTOCOL_FEATURES, VERSION_1, Where, start_qemu, start_uml
from tests.support.session import INFLATE, Session
from tests.support.wait import wait_until

from ballonet.balloon.request import Stage

Start = Callable[[Where], Session]

UVA = 0x7F00_0000_0000
RING = (UVA, UVA + 4096, UVA + 8192)


def greet(front_end: FrontEnd, queues: int) -> None:
    """What QEMU says before a driver is there, with `num_vqs` as given."""
    front_end.get_features()
    front_end.set_protocol_features(front_end.get_protocol_features())
    front_end.set_owner()
    for queue in range(queues):
        front_end.set_vring_call(queue)
        front_end.set_vring_err(queue)
    front_end.get_config(0, 16)


def test_rings_without_shared_memory_are_one_line_that_says_what_to_do(
    device: Device, caplog: pytest.LogCaptureFixture
) -> None:
    with FrontEnd.connect(device.path) as front_end, GuestRam([RamRegion(0, MIB, UVA)]) as ram:
        greet(front_end, 5)
        assert device.status().problem is None
        front_end.set_features(VERSION_1 | PROTOCOL_FEATURES)
        for queue in (0, 1):  # QEMU shares what it can, which is nothing, and goes on
            front_end.set_vring_num(queue, 128)
            front_end.set_vring_base(queue, 0)
            front_end.set_vring_addr(queue, RING)
            front_end.set_vring_kick(queue)
        for queue in range(5):
            front_end.set_vring_enable(queue, 1, ack=True)
        problem = device.status().problem
        assert problem is not None
        assert "memory-backend-memfd" in problem
        assert "share=on" in problem
        assert [line for line in caplog.messages if "shares no guest memory" in line] == [problem]
        table = [TableRegion(0, MIB, UVA, 0)]
        front_end.set_mem_table(table, [ram.fd(ram.regions[0])], ack=True)
        assert device.status().problem is None
        assert device.status().running


@pytest.mark.parametrize(("queues", "is_enough"), [(1, False), (3, False), (4, True), (5, True)])
def test_too_few_queues_are_named_before_a_driver_fails_for_them(
    device: Device, caplog: pytest.LogCaptureFixture, queues: int, is_enough: bool
) -> None:
    with FrontEnd.connect(device.path) as front_end:
        greet(front_end, queues)
        if not is_enough:  # in the log at once: nobody may ask, and no message may follow
            wait_until(lambda: caplog.messages, SECONDS, "nothing is logged")
        problem = device.status().problem
        assert (problem is None) == is_enough
        if not is_enough:
            assert "num_vqs=4" in str(problem)
            assert caplog.messages == [problem]


def give_pages(device: Device, guest: Session) -> None:
    """The driver reads its target and gives pages, of which no word gets through."""
    device.control.set_target(100)
    wait_until(lambda: guest.read_num_pages() == 100, SECONDS, "the target does not arrive")
    first, _ = guest.free_range()
    guest.inflate(range(first, first + 50))
    assert guest.rings[INFLATE].used_idx == 1


def test_a_configuration_space_that_ends_before_actual_is_named(
    device: Device, caplog: pytest.LogCaptureFixture
) -> None:
    with start_uml(device) as guest:  # reads no more than it asks for
        give_pages(device, guest)
        problem = wait_until(lambda: device.status().problem, SECONDS, "nothing is said")
        assert "has 4 bytes" in problem
        assert "config_size=16" in problem
        assert caplog.messages.count(problem) == 1


def test_a_driver_that_says_how_much_it_gave_is_no_problem_when_it_stalls(device: Device) -> None:
    with start_uml(device) as guest:
        give_pages(device, guest)
        guest.write_actual(50)
        wait_until(lambda: device.status().stage is Stage.STALLED, SECONDS, "it goes on")
        assert device.status().problem is None


@pytest.mark.parametrize("start", [start_qemu, start_uml])
def test_a_guest_that_works_has_no_problem(device: Device, start: Start) -> None:
    with start(device) as guest:
        guest.inflate([guest.free_range()[0]])
        assert device.status().problem is None
