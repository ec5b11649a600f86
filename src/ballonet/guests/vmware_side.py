"""VMware's balloon in the embedded guest: our driver, and its calls over a link to a host of ours.

A call waits for its answer as long as there is no host.  A host that is found again may know
nothing of the guest, so calls under way are answered RESET then, as VMware's own host answers the
first one after the guest has moved: the driver forgets what it gave, and begins anew.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Final

from ballonet.errors import UsageError, WireError
from ballonet.kernel.kernel import Kernel
from ballonet.kernel.tasks import Flag, Job
from ballonet.memory.regions import Region
from ballonet.memory.shared_file import SharedFile
from ballonet.runtime.event_loop import Watcher
from ballonet.siblings.framing import ANSWER, CALL, Frame, FrameKind, Hello
from ballonet.siblings.guest_link import GuestLink
from ballonet.vmware.calls import Answer, Status
from ballonet.vmware.driver import VmwareDriver, VmwareDriverSettings

__all__ = ["VmwareSide"]

_RESET: Final = Answer(Status.RESET, 0)


class _Call:
    """One that waits for its answer."""

    def __init__(self) -> None:
        self.is_done: Final = Flag()
        self.answer = _RESET


class VmwareSide:
    """A `BalloonSide`."""

    def __init__(self, kernel: Kernel, watcher: Watcher, path: Path, memory: SharedFile) -> None:
        self._link = GuestLink(
            watcher,
            path,
            Hello("vmware", (Region(0, memory.size, 0, 0),)),
            [memory.fd],
            received=self._received,
            found_again=self._found_again,
        )
        self.driver: Final = VmwareDriver(kernel, self._call, VmwareDriverSettings())
        self._calls: deque[_Call] = deque()  # in the order of their answers
        self._is_reset = False  # a host was found again, and no call was told of it yet

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
        return self.driver.actual_pages

    def start(self) -> None:
        """Find the host and begin. Raises: GuestError."""
        self._link.connect()
        self.driver.start()

    def reconnect(self) -> None:
        """Look for a host that is lost, if it is time."""
        self._link.reconnect()

    def facts(self) -> dict[str, object]:
        """What whoever asks the guest for its driver is told."""
        return {
            **self.driver.describe(),
            "actual_pages": self.driver.actual_pages,
            "reconnections": self._link.reconnections,
        }

    def freeze(self) -> Job[None]:
        """VMware's driver has none. Raises: UsageError."""
        raise UsageError("a driver of VMware's balloon lets go of nothing before hibernation")

    def restore(self) -> Job[None]:
        """The same. Raises: UsageError."""
        raise UsageError("a driver of VMware's balloon has not let go of its host")

    def remove(self) -> Job[None]:
        """Empty the balloon and forget the host."""
        return self.driver.stop()

    def close(self) -> None:
        """Hang up; safe to call again."""
        self._link.close()

    def _call(self, command: int, arg1: int, arg2: int) -> Job[Answer]:
        if self._is_reset:
            self._is_reset = False
            return _RESET
        call = _Call()
        self._calls.append(call)
        is_sent = self._link.send(FrameKind.CALL, CALL.pack(command, arg1, arg2))
        if self._link.is_connected and not is_sent:
            self._link.close()  # a host that does not read calls is none
        yield call.is_done
        return call.answer

    def _received(self, frame: Frame) -> None:
        """Raises: WireError, if the host says what no host of VMware's says."""
        if frame.kind is FrameKind.DOORBELL:
            self.driver.ring_doorbell()
        elif frame.kind is FrameKind.ANSWER and self._calls:
            call = self._calls.popleft()
            call.answer = Answer(*ANSWER.unpack(frame.body))
            call.is_done.set()
        else:
            raise WireError("frame", frame.kind.name, "nothing asked for it", "siblings.framing")

    def _found_again(self) -> None:
        """Whatever was asked is not answered any more; else the next call hears of it."""
        calls, self._calls = self._calls, deque()
        self._is_reset = not calls
        for call in calls:
            call.is_done.set()
