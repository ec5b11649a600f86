"""A guest in User-Mode Linux with our device, for experiments on what its driver does.

Here too: how such an experiment waits, and asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

from ballonet.device.balloon import Balloon, BalloonSettings
from ballonet.errors import GuestError
from ballonet.guests.ballooned import BalloonedGuest
from ballonet.guests.linux import LinuxGuestSettings
from ballonet.guests.virtio_evidence import OBSERVATIONS
from ballonet.lab.notebook import Notebook
from ballonet.units import format_bytes, pages_to_bytes
from ballonet.virtio.features import RING_FEATURES, Feature

__all__ = [
    "GUEST_BYTES",
    "ask_device",
    "driver_guest",
    "fill",
    "observe_feature",
]

#: Enough for its kernel and a balloon, and little to look through.
GUEST_BYTES: Final = 256 << 20
_STALLED_S: Final = 120.0
_ANSWER_S: Final = 60.0
_LOG_LINES: Final = 5

T = TypeVar("T")


@contextmanager
def driver_guest(
    notebook: Notebook,
    offered: Feature,
    *command_line: str,
    memory_bytes: int = GUEST_BYTES,
) -> Iterator[BalloonedGuest]:
    """A guest whose device offers these features of a balloon, for the block.

    `command_line`: further kernel arguments.  Raises: GuestError.
    """
    with BalloonedGuest(
        LinuxGuestSettings(memory_bytes, command_line=command_line),
        BalloonSettings(RING_FEATURES | offered),
    ) as machine:
        notebook.runs_on(machine.guest.release, "User-Mode Linux")
        yield machine


def fill(machine: BalloonedGuest, pages: int) -> None:
    """Have so many balloon pages in the balloon, and their memory with the host.

    Raises: GuestError, if it stands still before.
    """
    resized = machine.resize(pages, stalled_after_s=_STALLED_S)
    if not resized.reached or resized.waiting_bytes:
        raise GuestError(
            f"the balloon should have {format_bytes(pages_to_bytes(pages))}, and stays at"
            f" {format_bytes(pages_to_bytes(resized.actual_pages))};"
            f" its kernel's last words: {_last_words(machine)}"
        )


def _last_words(machine: BalloonedGuest) -> str:
    """A guest that hangs cannot be asked any more."""
    return " / ".join(machine.guest.kernel_log().splitlines()[-_LOG_LINES:])


def ask_device(machine: BalloonedGuest, question: Callable[[Balloon], T]) -> T:
    """What only the device's own thread may look at. Raises: TimeoutError."""
    server = machine.device.server
    return server.loop.ask(lambda: question(server.balloon), _ANSWER_S)


def observe_feature(notebook: Notebook, machine: BalloonedGuest, feature: Feature) -> None:
    """See a feature at work, as `ballonet features` does. Raises: GuestError."""
    is_at_work, text = OBSERVATIONS[feature](machine)
    notebook.block("with it", text)
    notebook.claim(f"with {feature.name} it is seen at work", holds=is_at_work)
