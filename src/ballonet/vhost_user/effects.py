"""What a session asks the server to do, besides what the device itself asks.

Descriptors are plain numbers here: the server owns them, and closes those no effect claims.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from ballonet.device.effects import Effect as DeviceEffect
from ballonet.memory.regions import Region
from ballonet.vhost_user.messages import LogArea

__all__ = [
    "AddRegion",
    "Effect",
    "FdKind",
    "RemoveRegion",
    "ReplaceRegions",
    "Reply",
    "SetBackendChannel",
    "SetLog",
    "SetVringFd",
]


class FdKind(Enum):
    """What a queue's descriptor is for."""

    KICK = auto()  #: driver tells device
    CALL = auto()  #: device tells driver
    ERR = auto()  #: device tells front-end that the ring is broken


@dataclass(frozen=True, slots=True)
class Reply:
    """Send these bytes to the front-end."""

    data: bytes


@dataclass(frozen=True, slots=True)
class ReplaceRegions:
    """Map these regions in place of all others; descriptor `i` belongs to region `i`."""

    regions: list[Region]
    fds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AddRegion:
    """Map one more region."""

    region: Region
    fd: int


@dataclass(frozen=True, slots=True)
class RemoveRegion:
    """Unmap the region of the same addresses and size."""

    region: Region


@dataclass(frozen=True, slots=True)
class SetVringFd:
    """Use this descriptor for the queue from now on; None: none."""

    queue: int
    kind: FdKind
    fd: int | None


@dataclass(frozen=True, slots=True)
class SetBackendChannel:
    """Send our own messages through this descriptor."""

    fd: int


@dataclass(frozen=True, slots=True)
class SetLog:
    """Map the dirty log."""

    area: LogArea
    fd: int


Effect = (
    DeviceEffect
    | Reply
    | ReplaceRegions
    | AddRegion
    | RemoveRegion
    | SetVringFd
    | SetBackendChannel
    | SetLog
)
