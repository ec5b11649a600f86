"""The driver's half of a race, a process of its own; see test_ring_races.py.

`python -m tests.integration.racing_driver MEMORY KICK CALL FORMAT EVENT_IDX SIZE CHAINS`: numbers
of three inherited descriptors, then what kind of ring.  Prints `ready` when its ring is there, and
at the end how often it slept.  Exits with 1 and a line on stderr if something is wrong.
"""

from __future__ import annotations

import os
import sys
from itertools import cycle
from typing import Final

from tests.property.ring_under_test import AnyDriverRing, RingFormat
from tests.support.driver_ring import Buffer
from tests.support.guest_memory import GuestRam
from tests.support.wait import PATIENCE_S
from tests.support.wire import is_readable

RAM_BYTES: Final = 0x8000
RING_GPA: Final = 0x1000
DATA_GPA: Final = 0x4000


def sleep_until(fd: int, who: str) -> None:
    """Wait to be woken. Exits, if nobody does."""
    if not is_readable(fd, PATIENCE_S):
        sys.exit(f"the {who} was never woken")
    os.eventfd_read(fd)


def run(driver: AnyDriverRing, kick: int, call: int, chains: int) -> int:
    """Offer chains of one to three descriptors until all were used, in order; counts sleeps."""
    added, used, slept = 0, 0, 0
    lengths, expected = cycle((1, 1, 3, 2, 1)), list[int]()
    while used < chains:
        driver.want_calls(False)
        while added < chains and driver.free_descriptors >= 3:
            expected.append(driver.add([Buffer(DATA_GPA, 4)] * next(lengths)))
            added += 1
            if driver.publish():
                os.eventfd_write(kick, 1)
        driver.want_calls(True)
        found = driver.collect()
        if not found:
            slept += 1
            sleep_until(call, "driver")
            found = driver.collect()
        used += len(found)
        if [one.head for one in found] != [expected.pop(0) for _ in found]:
            sys.exit(f"{found} were used out of order")
    return slept


def main() -> None:
    """See above."""
    memory, kick, call = map(int, sys.argv[1:4])
    ring_format, event_idx = RingFormat(sys.argv[4]), sys.argv[5] == "True"
    with GuestRam.of_fd(memory, RAM_BYTES) as ram:
        driver = ring_format.drive(ram, RING_GPA, int(sys.argv[6]), event_idx=event_idx)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        slept = run(driver, kick, call, int(sys.argv[7]))
        driver.close()
    sys.stdout.write(f"{slept}\n")


if __name__ == "__main__":
    main()
