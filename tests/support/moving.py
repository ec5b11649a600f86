"""A guest of `Pair` goes on elsewhere: another kernel, driver and device over a copy of memory."""

from __future__ import annotations

import numpy as np
from tests.support.pair import Pair

from ballonet.device.balloon import Balloon
from ballonet.device.state import restore_state, state_of
from ballonet.driver import state as driver_state
from ballonet.kernel import state as kernel_state
from ballonet.kernel.frames import Use

GARBAGE = 0x6B6B_6B6B_6B6B_6B6B


def come_to_rest(pair: Pair, seconds: float = 60.0) -> bool:
    """Freeze, both sides going on meanwhile; False, and all go on, if that takes too long."""
    pair.scheduler.freeze()
    for _ in range(int(seconds * 10)):
        pair.run(0.1)
        if pair.scheduler.is_frozen:
            return True
    pair.scheduler.thaw()
    return False


def saved(pair: Pair) -> tuple[bytes, bytes]:
    """State of the kernel and of the driver."""
    kernel = kernel_state.state_of(pair.kernel, pair.programs)
    return kernel, driver_state.state_of(pair.driver)


def empty_copy(pair: Pair, memory: memoryview | None = None) -> Pair:
    """As another machine waits for a guest: the same memory, nothing booted.

    What is the host's, or was hinted, does not come along: there it is anything.
    `memory`: what has arrived; None: what the guest has.
    """
    there = Pair(
        len(pair.memory),
        pair.device.settings,
        pair.driver.settings,
        pair.kernel.settings,
        pair.kernel.page_bytes,
        boots=False,
    )
    there.clock.ns = pair.clock.ns
    there.memory[:] = pair.memory if memory is None else memory
    left_out = pair.kernel.table.used_as(Use.BALLOON, Use.HELD)
    there.kernel.memory.fill(left_out, np.uint64(GARBAGE))  # type: ignore[arg-type]
    return there


def move(pair: Pair, memory: memoryview | None = None) -> Pair:
    """The guest, which rests, goes on in another pair, with what has arrived of its memory."""
    device = state_of(pair.device)
    pair.stop_device()
    kernel, driver = saved(pair)
    there = empty_copy(pair, memory)
    there.device = Balloon(pair.device.settings, there.clock)
    restore_state(there.device, device)
    there.rejoin()
    kernel_state.restore_state(there.kernel, there.programs, kernel)
    driver_state.restore_state(there.driver, driver)
    there.scheduler.freeze()
    assert saved(there) == (kernel, driver)
    there.scheduler.thaw()
    there.driver.accept_again()
    there.driver.go_on()
    return there
