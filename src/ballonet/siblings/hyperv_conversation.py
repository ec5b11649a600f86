"""Hyper-V's messages over a link, which has the room of a ring: full, until the guest reads."""

from __future__ import annotations

from typing import Final

from ballonet.balloon.clock import Clock
from ballonet.balloon.facts import MessageSent
from ballonet.errors import PeerError
from ballonet.hyperv.host import HypervHost
from ballonet.hyperv.message_facts import fact_of
from ballonet.hyperv.parser import parse
from ballonet.hyperv.settings import HypervHostSettings
from ballonet.siblings.framing import Frame, FrameKind, pack_frame
from ballonet.siblings.link import Link

__all__ = ["HypervConversation"]


class HypervConversation:
    """A `Conversation`."""

    def __init__(self, clock: Clock, settings: HypervHostSettings) -> None:
        self.host: Final = HypervHost(clock, settings, self._send)
        self.link: Link | None = None

    def received(self, frame: Frame) -> None:
        """Let the host read a message. Raises: PeerError, if it is none."""
        if frame.kind is not FrameKind.MESSAGE:
            raise PeerError(f"{frame.kind.name} is nothing that a guest of Hyper-V's balloon sends")
        self.host.received(frame.body)

    def _send(self, message: bytes) -> bool:
        if self.link is None or not self.link.send(pack_frame(FrameKind.MESSAGE, message)):
            return False
        observers = self.host.given.observers
        if observers.want_details:
            fact = fact_of(parse(message))
            observers.tell_detail(MessageSent(fact.name, fact.arguments))
        return True
