"""What the server of a host needs to know of its protocol: very little."""

from __future__ import annotations

from typing import Protocol

from ballonet.balloon.sibling_host import SiblingHost
from ballonet.siblings.framing import Frame
from ballonet.siblings.link import Link

__all__ = ["Conversation"]


class Conversation(Protocol):
    """One host, and how frames reach it and leave it."""

    link: Link | None  #: to the guest of the moment, for what the host says

    @property
    def host(self) -> SiblingHost:
        """The host."""
        ...

    def received(self, frame: Frame) -> None:
        """Let the host have what its guest says.

        Raises: PeerError, if it is nothing of this protocol, or the guest does not read what it is
        told.
        """
        ...
