"""What checks of the siblings' balloons see of a real Linux, whichever of them it has.

Time is the machine's own, and an emulated guest is slow: nothing here is measured by it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from ballonet.guests.guest_shell import GuestShell
from ballonet.units import bytes_to_pages

__all__ = ["FREE_DOUBT_PAGES", "LinuxGuest"]

#: Of a kernel that does other things, too: 16 MiB.
FREE_DOUBT_PAGES: Final = 4096
#: For hangs alone: a busy machine is no fault of a driver, and an emulated guest has little of it.
_WAIT_S: Final = 300.0
_LOOK_S: Final = 0.2
_PATTERN: Final = "head -c 8388608 /dev/urandom > /tmp/alive; md5sum < /tmp/alive"


class LinuxGuest:
    """The part of a session that no protocol has a say in."""

    is_timed = False
    is_trusting = True
    free_doubt_pages = FREE_DOUBT_PAGES

    def __init__(self, shell: GuestShell, memory_bytes: int) -> None:
        self.memory_pages = bytes_to_pages(memory_bytes)
        self._shell = shell

    def rest(self, seconds: float) -> None:
        """Let time pass."""
        time.sleep(seconds)

    def until(self, condition: Callable[[], bool]) -> bool:
        """Wait for something; False if it does not come."""
        end_s = time.monotonic() + _WAIT_S
        while not condition():
            if time.monotonic() > end_s:
                return False
            time.sleep(_LOOK_S)
        return True

    @property
    def free_pages(self) -> int:
        """MemFree."""
        return self._meminfo("MemFree")

    @property
    def available_pages(self) -> int:
        """MemAvailable."""
        return self._meminfo("MemAvailable")

    @property
    def total_pages(self) -> int:
        """MemTotal."""
        return self._meminfo("MemTotal")

    def is_alive(self) -> bool:
        """A file of 8 MiB is written, and read as it was written."""
        written = self.ask(_PATTERN)
        return self.ask("md5sum < /tmp/alive; rm /tmp/alive") == written

    def compact(self) -> None:
        """Compact all zones."""
        self.ask("echo 1 > /proc/sys/vm/compact_memory")

    def ask(self, command: str) -> str:
        """What a command in the guest prints. Raises: GuestError, if it fails."""
        return self._shell.check(command, _WAIT_S)

    def _meminfo(self, name: str) -> int:
        row = self.ask(f"grep ^{name}: /proc/meminfo")
        return bytes_to_pages(int(row.split()[1]) << 10)
