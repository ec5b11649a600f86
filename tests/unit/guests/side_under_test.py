"""A guest with a balloon that is not virtio's, and the socket at which the test is its host."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from threading import Thread
from typing import Generic, TypeVar

from tests.support.sibling_guest import WELCOME, frame
from tests.support.wait import PATIENCE_S, wait_until

from ballonet.guests.hyperv_side import HypervSide
from ballonet.guests.vmware_side import VmwareSide
from ballonet.kernel.kernel import Kernel, KernelSettings
from ballonet.kernel.physical import MemoryPiece, PhysicalMemory
from ballonet.kernel.tasks import Scheduler
from ballonet.memory.shared_file import SharedFile
from ballonet.runtime.event_loop import EventLoop

Side = TypeVar("Side", HypervSide, VmwareSide)


class SideRig(Generic[Side]):
    """One guest; its driver does not begin by itself."""

    def __init__(self, path: Path, side: type[Side]) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.settimeout(PATIENCE_S)
        self.listener.bind(str(path))
        self.listener.listen()
        self.memory = SharedFile("guest", 64 << 20)
        self.scheduler = Scheduler()
        physical = PhysicalMemory([MemoryPiece(0, self.memory.view)], 4096)
        self.kernel = Kernel(physical, self.scheduler, KernelSettings())
        self.loop = EventLoop()
        self.side: Side = side(self.kernel, self.loop, path, self.memory)
        self.host = socket.socket(socket.AF_UNIX)

    def start(self) -> None:
        """Boot: the guest finds the test, and its driver begins."""
        thread = Thread(target=self.welcome)
        thread.start()
        self.side.start()
        thread.join()

    def welcome(self) -> None:
        """Be the host of a guest that connects."""
        self.host.close()
        self.host, _ = self.listener.accept()
        self.host.settimeout(PATIENCE_S)
        _, fds, _, _ = socket.recv_fds(self.host, 1 << 10, 8)
        for fd in fds:
            os.close(fd)
        self.host.sendall(frame(WELCOME))

    def lose(self) -> None:
        """The host goes away."""
        self.host.close()
        self.turn_until(connected=False)

    def come_again(self) -> None:
        """Another one is there, as soon as the guest looks."""
        thread = Thread(target=self.welcome)
        thread.start()

        def look() -> bool:
            self.side.reconnect()
            self.loop.turn(0)
            return self.side.is_connected

        wait_until(look, PATIENCE_S, "the guest does not look for a host")
        thread.join()

    def turn_until(self, *, connected: bool) -> None:
        """Until the guest knows that it has a host, or none."""

        def look() -> bool:
            self.loop.turn(0)
            return self.side.is_connected is connected

        wait_until(look, PATIENCE_S, "the link stays as it is")

    def close(self) -> None:
        """Power off."""
        self.side.close()
        self.loop.close()
        self.listener.close()
        self.host.close()
        self.kernel.memory.release()
        self.memory.close()
