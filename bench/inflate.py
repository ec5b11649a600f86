"""How long the guest waits for an inflate, with and without the host freeing memory.

Both devices serve a real kernel in a guest of 1 GiB whose memory was touched before; the time runs
from the new target to the driver's last write of `actual`.
"""

from __future__ import annotations

from ballonet.device.balloon import BalloonSettings
from ballonet.errors import GuestError
from ballonet.guests.ballooned import BalloonedGuest
from ballonet.guests.linux import LinuxGuestSettings
from bench.report import Ratio

__all__ = ["MEMORY_BYTES", "PAGES", "inflate_once", "measure"]

PAGES = 200_000
ROUNDS = 7
MEMORY_BYTES = 1 << 30


def measure() -> Ratio:
    """Inflate 200,000 touched pages in turns. Raises: GuestError."""
    guest = LinuxGuestSettings(MEMORY_BYTES)
    freeing: list[float] = []
    keeping: list[float] = []
    with (
        BalloonedGuest(guest, BalloonSettings()) as ours,
        BalloonedGuest(guest, BalloonSettings(discards=False)) as base,
    ):
        release = ours.guest.release
        for _ in range(ROUNDS):
            freeing.append(inflate_once(ours))
            keeping.append(inflate_once(base))
    return Ratio(
        name=f"inflate {PAGES} touched pages, Linux {release}",
        subject="memory given back to the host",
        base="same device, discarding off",
        subject_seconds=freeing,
        base_seconds=keeping,
    )


def inflate_once(machine: BalloonedGuest) -> float:
    """Seconds of one inflate; the balloon is empty again afterwards. Raises: GuestError."""
    mebibytes = machine.guest.meminfo()["MemAvailable"] * 9 // 10 >> 20
    machine.guest.check(f"dd if=/dev/zero of=/tmp/fill bs=1M count={mebibytes} && rm /tmp/fill")
    inflated = machine.resize(PAGES, stalled_after_s=20)
    if not inflated.reached or not machine.resize(0, stalled_after_s=20).reached:
        raise GuestError(f"the guest stopped at {inflated.actual_pages} of {PAGES} pages")
    return inflated.seconds
