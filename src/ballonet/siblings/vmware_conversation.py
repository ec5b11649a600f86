"""VMware's calls over a link: each is answered at once, and the doorbell rings in between."""

from __future__ import annotations

from typing import Final

from ballonet.balloon.clock import Clock
from ballonet.errors import PeerError
from ballonet.siblings.framing import ANSWER, CALL, DOORBELL, Frame, FrameKind, pack_frame
from ballonet.siblings.link import Link
from ballonet.siblings.told_calls import answer_call
from ballonet.vmware.calls import Call
from ballonet.vmware.host import VmwareHost, VmwareHostSettings

__all__ = ["VmwareConversation"]


class VmwareConversation:
    """A `Conversation`."""

    def __init__(self, clock: Clock, settings: VmwareHostSettings) -> None:
        self.host: Final = VmwareHost(clock, settings, ring_doorbell=self._ring)
        self.link: Link | None = None

    def received(self, frame: Frame) -> None:
        """Answer a call.

        Raises: PeerError, if it is none, or the guest calls again and again without reading its
        answers.
        """
        if frame.kind is not FrameKind.CALL:
            raise PeerError(f"{frame.kind.name} is nothing that a guest of VMware's balloon sends")
        answer = answer_call(self.host, Call(*CALL.unpack(frame.body)))
        packed = pack_frame(FrameKind.ANSWER, ANSWER.pack(answer.status, answer.result))
        if self.link is not None and not self.link.send(packed):
            raise PeerError("the guest does not read its answers")

    def _ring(self, context: int, resource: int) -> None:
        """Wake the guest; one that has not read the bell before will look anyway."""
        if self.link is not None:
            self.link.send(pack_frame(FrameKind.DOORBELL, DOORBELL.pack(context, resource)))
