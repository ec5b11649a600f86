"""Why a command is refused, in QEMU's classes and words.

Source: QEMU qapi/error.json, include/qapi/qmp/qerror.h.
"""

from __future__ import annotations

from ballonet.errors import BallonetError

__all__ = [
    "CommandError",
    "CommandNotFoundError",
    "DeviceNotFoundError",
    "NoBalloonError",
    "WrongLineError",
]


class CommandError(BallonetError):
    """A command that cannot be done; the client is told class and text."""

    qmp_class = "GenericError"

    def __init__(self, desc: str) -> None:
        super().__init__(desc)
        self.desc = desc


class WrongLineError(ValueError):
    """A line of HMP that is none for its command; the text is QEMU's."""


class CommandNotFoundError(CommandError):
    """There is no such command, or not at this moment."""

    qmp_class = "CommandNotFound"


class DeviceNotFoundError(CommandError):
    """There is no such device."""

    qmp_class = "DeviceNotFound"


class NoBalloonError(CommandError):
    """No guest with a balloon is there."""

    qmp_class = "DeviceNotActive"

    def __init__(self) -> None:
        super().__init__("No balloon device has been activated")
