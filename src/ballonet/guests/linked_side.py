"""What the embedded guest's balloon is like whose driver speaks to a host of ours over a link."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Final, Protocol

from ballonet.kernel.tasks import Job
from ballonet.memory.regions import Region
from ballonet.memory.shared_file import SharedFile
from ballonet.runtime.event_loop import Watcher
from ballonet.siblings.framing import Frame, Hello
from ballonet.siblings.guest_link import GuestLink

__all__ = ["LinkedDriver", "LinkedSide"]


class LinkedDriver(Protocol):
    """What both drivers have in common."""

    @property
    def actual_pages(self) -> int:
        """What is in the balloon, in pages of 4 KiB."""
        ...

    def describe(self) -> dict[str, object]:
        """Figures of its own; JSON takes them."""
        ...

    def start(self) -> None:
        """Begin."""
        ...

    def stop(self) -> Job[None]:
        """Leave the host."""
        ...


class LinkedSide(ABC):
    """A `BalloonSide` but for what is done before and after hibernation."""

    def __init__(self, kind: str, watcher: Watcher, path: Path, memory: SharedFile) -> None:
        """`kind`: of the balloon, as the host knows it."""
        self._link: Final = GuestLink(
            watcher,
            path,
            Hello(kind, (Region(0, memory.size, 0, 0),)),
            [memory.fd],
            received=self._received,
            found_again=self._found_again,
        )

    @property
    @abstractmethod
    def linked_driver(self) -> LinkedDriver:
        """The driver of the moment."""

    @property
    def is_connected(self) -> bool:
        """There is a host."""
        return self._link.is_connected

    @property
    def deadline_ns(self) -> int | None:
        """When a lost host is to be looked for, by the host's clock."""
        return self._link.deadline_ns

    @property
    def actual_pages(self) -> int:
        """What the driver has in the balloon, in pages of 4 KiB."""
        return self.linked_driver.actual_pages

    def start(self) -> None:
        """Find the host and begin. Raises: GuestError."""
        self._link.connect()
        self.linked_driver.start()

    def reconnect(self) -> None:
        """Look for a host that is lost, if it is time."""
        self._link.reconnect()

    def facts(self) -> dict[str, object]:
        """What whoever asks the guest for its driver is told."""
        return {
            **self.linked_driver.describe(),
            "actual_pages": self.actual_pages,
            "reconnections": self._link.reconnections,
        }

    def remove(self) -> Job[None]:
        """Leave the host, as a driver does whose module is removed."""
        return self.linked_driver.stop()

    def close(self) -> None:
        """Hang up; safe to call again."""
        self._link.close()

    @abstractmethod
    def _received(self, frame: Frame) -> None:
        """What the host says. Raises: WireError, if no host of this balloon says it."""

    @abstractmethod
    def _found_again(self) -> None:
        """A host has welcomed the guest after one was lost."""
