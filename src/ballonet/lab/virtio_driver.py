"""The balloon's driver in a Linux guest, taken from its device and given back: sysfs does it.

Without a driver a device is as it is before the guest has loaded one.
"""

from __future__ import annotations

from typing import Final, Protocol

from ballonet.errors import GuestError

__all__ = ["VirtioDriver"]

_DRIVER: Final = "/sys/bus/virtio/drivers/virtio_balloon"


class Shell(Protocol):
    """Where commands can be run."""

    def check(self, command: str) -> str:
        """Run a command that must succeed. Raises: GuestError."""
        ...


class VirtioDriver:
    """Of the one balloon that a guest has."""

    def __init__(self, shell: Shell) -> None:
        """Look which device it has. Raises: GuestError, if it has none."""
        self._shell = shell
        names = shell.check(f"ls {_DRIVER}").split()
        devices = [name for name in names if name.startswith("virtio")]
        if not devices:
            raise GuestError("the balloon's driver has no device")
        self.device: Final = devices[0]

    def unbind(self) -> None:
        """Take it away: it gives back what is in the balloon. Raises: GuestError."""
        self._shell.check(f"echo {self.device} > {_DRIVER}/unbind")

    def bind(self) -> None:
        """Give it back: it begins anew. Raises: GuestError."""
        self._shell.check(f"echo {self.device} > {_DRIVER}/bind")
