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
from ballonet.guests.linked_side import LinkedSide
from ballonet.kernel.kernel import Kernel
from ballonet.kernel.tasks import Flag, Job
from ballonet.memory.shared_file import SharedFile
from ballonet.runtime.event_loop import Watcher
from ballonet.siblings.framing import ANSWER, CALL, Frame, FrameKind
from ballonet.vmware.calls import Answer, Status
from ballonet.vmware.driver import VmwareDriver, VmwareDriverSettings

__all__ = ["VmwareSide"]

_RESET: Final = Answer(Status.RESET, 0)


class _Call:
    """One that waits for its answer."""

    def __init__(self) -> None:
        self.is_done: Final = Flag()
        self.answer = _RESET


class VmwareSide(LinkedSide):
    """A `BalloonSide`."""

    def __init__(self, kernel: Kernel, watcher: Watcher, path: Path, memory: SharedFile) -> None:
        super().__init__("vmware", watcher, path, memory)
        self.driver: Final = VmwareDriver(kernel, self._call, VmwareDriverSettings())
        self._calls: deque[_Call] = deque()  # in the order of their answers
        self._is_reset = False  # a host was found again, and no call was told of it yet

    @property
    def linked_driver(self) -> VmwareDriver:
        """The driver of the moment."""
        return self.driver

    def freeze(self) -> Job[None]:
        """VMware's driver has none. Raises: UsageError."""
        raise UsageError("a driver of VMware's balloon lets go of nothing before hibernation")

    def restore(self) -> Job[None]:
        """The same. Raises: UsageError."""
        raise UsageError("a driver of VMware's balloon has not let go of its host")

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
