"""A driver and a device in two processes, both suppressing notifications: nobody sleeps for ever.

Each side works while there is work, then asks to be woken, looks once more and sleeps.  Whoever
adds something must wake a sleeper that asked for it; a sleep that lasts is a notification lost.
The two run at the same time, on shared memory, with no lock between them.  That shows the order of
their steps; that a processor keeps it is the fences' work, which test_ring_fences.py holds.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import cycle
from pathlib import Path

import pytest
from tests.integration.racing_driver import RAM_BYTES, RING_GPA
from tests.property.ring_under_test import RingFormat, serve
from tests.support.guest_memory import GuestRam, RamRegion
from tests.support.wait import PATIENCE_S
from tests.support.wire import is_readable

from ballonet.memory.fence import full_fence
from ballonet.virtio.ring.chain import DeviceRing

CHAINS = 6_000
ROOT = Path(__file__).parents[2]


@contextmanager
def eventfd() -> Iterator[int]:
    fd = os.eventfd(0)
    yield fd
    os.close(fd)


def run_device(device: DeviceRing, kick: int, call: int) -> int:
    """Use every chain, in batches of one to three; counts sleeps."""

    def publish() -> None:
        if device.publish():
            os.eventfd_write(call, 1)

    served, slept, batches = 0, 0, cycle((2, 1, 3, 1))
    while served < CHAINS:
        device.disable_kicks()
        batch, limit = 0, next(batches)
        while (chain := device.pop()) is not None:
            device.push(chain.head, 0)
            served, batch = served + 1, batch + 1
            if batch == limit:
                batch, limit = 0, next(batches)
                publish()
        if batch:
            publish()
        if device.enable_kicks() or served == CHAINS:
            continue
        slept += 1
        assert is_readable(kick, PATIENCE_S), f"the device was never woken, at {device.base:#x}"
        os.eventfd_read(kick)
    return slept


@pytest.mark.parametrize("size", [4, 16])
@pytest.mark.parametrize("event_idx", [False, True], ids=["flags", "event index"])
@pytest.mark.parametrize("ring_format", list(RingFormat), ids=repr)
def test_no_notification_is_lost_between_two_processes(
    ring_format: RingFormat, size: int, *, event_idx: bool
) -> None:
    region = RamRegion(0, RAM_BYTES, 0)
    with ExitStack() as stack:
        ram = stack.enter_context(GuestRam([region]))
        kick, call = stack.enter_context(eventfd()), stack.enter_context(eventfd())
        fds = (ram.fd(region), kick, call)
        words = [*fds, ring_format.value, event_idx, size, CHAINS]
        command = [sys.executable, "-m", "tests.integration.racing_driver", *map(str, words)]
        driver = subprocess.Popen(
            command, cwd=ROOT, pass_fds=fds, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        stack.enter_context(driver)
        stack.callback(driver.kill)
        assert driver.stdout is not None
        assert driver.stdout.readline() == b"ready\n"
        like_it = stack.enter_context(GuestRam([region]))  # only to know where everything lies
        layout = ring_format.drive(like_it, RING_GPA, size, event_idx=event_idx)
        stack.callback(layout.close)
        device = serve(layout, ram, full_fence)
        stack.callback(device.release)
        slept = run_device(device, kick, call)
        out, err = driver.communicate()
        assert (driver.returncode, err) == (0, b"")
        assert slept + int(out)  # else nothing was put to the test
