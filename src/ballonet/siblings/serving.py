"""Whoever serves a host of a sibling of virtio's balloon, and a thread for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Protocol, TypeVar

from ballonet.balloon.sibling_host import SiblingHost
from ballonet.control.commands import Server
from ballonet.memory.mapping import GuestMemory

__all__ = ["HostServer", "serving"]


class HostServer(Server, Protocol):
    """Whoever serves a host to its guests, whatever carries what they say."""

    @property
    def host(self) -> SiblingHost:
        """The host."""
        ...

    @property
    def guest_memory(self) -> GuestMemory | None:
        """Of the guest of the moment; None: there is none."""
        ...

    def run(self) -> None:
        """Serve until stopped, or for good if the guest is gone."""
        ...

    def stop(self) -> None:
        """Let the host end; may be called from a signal handler."""
        ...


S = TypeVar("S", bound=HostServer)


@contextmanager
def serving(server: S) -> Iterator[S]:
    """Run the server on a thread of its own inside the block."""
    thread = Thread(target=server.run, name=f"ballonet-{server.host.kind}", daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join()
