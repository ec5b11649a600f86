"""How long the guest waits for a balloon, with and without the host freeing memory.

Both devices serve a real kernel in a guest of 1 GiB whose memory was touched before; the time runs
from the new target to the driver's last write of `actual`.
"""

from __future__ import annotations

from collections.abc import Iterator

from ballonet.device.balloon import BalloonSettings
from ballonet.errors import GuestError
from ballonet.guests.ballooned import BalloonedGuest
from ballonet.guests.linux import LinuxGuestSettings
from bench.report import Ratio
from bench.yardstick import Yardstick

__all__ = ["MEMORY_BYTES", "PAGES", "inflate_once", "measure", "touch_all"]

PAGES = 200_000
ROUNDS = 7
MEMORY_BYTES = 1 << 30


def measure() -> Iterator[Ratio]:
    """Inflate and deflate 200,000 touched pages in turns. Raises: GuestError."""
    guest = LinuxGuestSettings(MEMORY_BYTES)
    times: dict[str, list[tuple[float, float]]] = {
        "ours": [],
        "direct": [],
        "base": [],
        "yardstick": [],
    }
    with (
        BalloonedGuest(guest, BalloonSettings()) as ours,
        BalloonedGuest(guest, BalloonSettings(defers=False)) as direct,
        BalloonedGuest(guest, BalloonSettings(discards=False)) as base,
        Yardstick("answer", MEMORY_BYTES) as yardstick,
    ):
        release = ours.guest.release
        for _ in range(ROUNDS):
            times["base"].append(_there_and_back(base))
            times["ours"].append(_there_and_back(ours))
            times["direct"].append(_there_and_back(direct))
            yardstick.guest.use_memory(90)
            times["yardstick"].append((yardstick.resize(PAGES), yardstick.resize(0)))
    what = f"{PAGES} touched pages, Linux {release}"
    for way, name in enumerate(("inflate", "deflate")):
        samples = {label: [pair[way] for pair in pairs] for label, pairs in times.items()}
        goal = 1.25 if name == "inflate" else None
        yield Ratio(
            f"a. {name} {what}",
            "memory given back to the host",
            "same device, discarding off",
            samples["ours"],
            samples["base"],
            goal=goal,
        )
        yield Ratio(
            f"a. {name} {what}, over a device in C",
            "memory given back to the host",
            "a device in C that only answers",
            samples["ours"],
            samples["yardstick"],
            goal=2.0 if name == "inflate" else None,
        )
    yield Ratio(
        f"a. inflate {what}, discards before answers",
        "memory given back to the host",
        "same device, discarding off",
        [pair[0] for pair in times["direct"]],
        [pair[0] for pair in times["base"]],
    )


def touch_all(machine: BalloonedGuest) -> None:
    """Let the host hold as much of the guest's memory as the guest can use."""
    machine.guest.use_memory(90)


def inflate_once(machine: BalloonedGuest) -> float:
    """Seconds of one inflate; the balloon is empty again afterwards. Raises: GuestError."""
    return _there_and_back(machine)[0]


def _there_and_back(machine: BalloonedGuest) -> tuple[float, float]:
    """Seconds of an inflate and of a deflate."""
    touch_all(machine)
    inflated = machine.resize(PAGES, stalled_after_s=20)
    deflated = machine.resize(0, stalled_after_s=20)
    if not inflated.reached or not deflated.reached:
        raise GuestError(f"the guest stopped at {inflated.actual_pages} of {PAGES} pages")
    return inflated.seconds, deflated.seconds
