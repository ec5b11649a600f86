"""A server and its connections that record everything they do.

The ordinary ones know nothing of this, so a device without a trace pays nothing for it.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Final

from ballonet.device.balloon import Balloon, BalloonSettings
from ballonet.device.clock import earliest
from ballonet.device.effects import (
    ActualChanged,
    Call,
    ChainDone,
    ConfigChanged,
    Discard,
    Emit,
    Event,
    HintRoundChanged,
    Negotiated,
    PagesHinted,
    PagesReported,
    StatsReceived,
)
from ballonet.device.hint_round import HINT_LEASE_S
from ballonet.trace.tracks import Track, track_of
from ballonet.trace.writer import TraceWriter
from ballonet.vhost_user.connection import Connection
from ballonet.vhost_user.effects import Effect
from ballonet.vhost_user.event_loop import EventLoop
from ballonet.vhost_user.messages import Message, Request, VringState
from ballonet.vhost_user.quiet_log import QuietLog
from ballonet.vhost_user.server import DeviceServer
from ballonet.virtio.features import feature_names
from ballonet.virtio.queues import QueueRole

__all__ = ["RecordingServer"]

_FIELDS: Final = {0: "num_pages", 4: "actual", 8: "free_page_hint_cmd_id", 12: "poison_val"}
#: Messages that begin with a queue and a number.
_WITH_QUEUE: Final = frozenset(
    {
        *(Request.SET_VRING_NUM, Request.SET_VRING_BASE, Request.GET_VRING_BASE),
        Request.SET_VRING_ENABLE,
    }
)
_STATE_BYTES: Final = 8
_CONFIG_HEADER_BYTES: Final = 12
#: Counter of messages, of pages or bytes, and the queue, of everything a chain may be.
_SERVED: Final = (
    ("inflate_messages", "inflated_pages", QueueRole.INFLATE),
    ("deflate_messages", "deflated_pages", QueueRole.DEFLATE),
    ("stats_messages", "stats_messages", QueueRole.STATS),
    ("report_messages", "reported_bytes", QueueRole.REPORTING),
    ("refused_chains", "refused_chains", None),
)


class RecordingConnection(Connection):
    """Records, and does what every connection does, whatever becomes of the record."""

    def __init__(
        self,
        writer: TraceWriter,
        loop: EventLoop,
        sock: socket.socket,
        balloon: Balloon,
        *,
        quiet: QuietLog,
        observe: Callable[[Event], None],
        ended: Callable[[], None],
    ) -> None:
        super().__init__(loop, sock, balloon, quiet=quiet, observe=observe, ended=ended)
        self._writer = writer
        self._before = asdict(balloon.counters)

    def _kicked(self, queue: int) -> None:
        self._writer.attempt(lambda: self._record_queue(queue, "kick"))
        super()._kicked(queue)

    def _handle(self, message: Message) -> None:
        self._writer.attempt(lambda: self._record_message(message))
        super()._handle(message)

    def _perform(self, effect: Effect) -> None:
        begun_ns = time.monotonic_ns()
        super()._perform(effect)
        self._writer.attempt(lambda: self._record_effect(effect, begun_ns))

    def _record_queue(self, queue: int, name: str) -> None:
        self._writer.instant(track_of(self._balloon.roles[queue]), name)

    def _record_message(self, message: Message) -> None:
        """Say what a front-end sent, whole or not: its content has not been checked yet."""
        details: dict[str, object] = {"fds": len(message.fds)} if message.fds else {}
        size = len(message.payload)
        if message.code in (Request.GET_CONFIG, Request.SET_CONFIG):
            if size >= _CONFIG_HEADER_BYTES:
                self._record_access(message)
                return
            details["bytes"] = size
        if message.code in _WITH_QUEUE and size == _STATE_BYTES:
            queue, number = VringState.parse(message.payload)
            details |= {"queue": queue, "value": number}
        self._writer.instant(Track.SOCKET, message.name, **details)

    def _record_access(self, message: Message) -> None:
        offset, data = int.from_bytes(message.payload[:4], "little"), message.payload[12:]
        verb = "writes"
        if message.code == Request.GET_CONFIG:
            verb, cmd_id = "reads", self._balloon.hint_round.shown_cmd_id
            data = self._balloon.config.read(offset, len(data), cmd_id=cmd_id)
        self._writer.instant(Track.CONFIG, f"driver {verb}", **_fields(offset, data))

    def _record_effect(self, effect: Effect, begun_ns: int) -> None:
        match effect:
            case Discard(ranges):
                count, size = len(ranges.offsets), ranges.total_bytes
                self._writer.span(Track.DISCARD, "discard", begun_ns, ranges=count, bytes=size)
            case Call(queue):
                self._record_chain()
                self._record_queue(queue, "call")
            case ConfigChanged():
                self._writer.instant(Track.CONFIG, "config change sent")
            case ChainDone():
                self._record_chain()
            case Emit(event):
                self._record_event(event)

    def _record_chain(self) -> None:
        """Say what the chain was by the counters it has moved since the last one."""
        before, self._before = self._before, asdict(self._balloon.counters)
        for messages, amount, role in _SERVED:
            if self._before[messages] != before[messages]:
                moved = self._before[amount] - before[amount]
                details = {} if amount == messages else {amount.rsplit("_", 1)[1]: moved}
                name = "chain refused" if role is None else f"{role.name.lower()} message"
                self._writer.instant(track_of(role), name, **details)

    def _record_event(self, event: Event) -> None:
        match event:
            case Negotiated(features):
                self._writer.instant(
                    Track.DEVICE, "features", names=", ".join(feature_names(features))
                )
            case ActualChanged(pages):
                self._writer.instant(Track.DEVICE, "actual changed", actual=pages)
            case HintRoundChanged(state, cmd_id):
                self._writer.instant(Track.HINT, f"round {state.lower()}", cmd_id=cmd_id)
            case PagesHinted(_, runs):
                self._writer.instant(Track.HINT, "hint", pages=runs.total_pages)
            case PagesReported(size, is_kept):
                self._writer.instant(Track.REPORTING, "report", bytes=size, kept=is_kept)
            case StatsReceived():
                self._writer.instant(Track.DEVICE, "statistics received")
            case _:
                self._writer.instant(Track.DEVICE, _words(event))


def _words(event: Event) -> str:
    """The name of an event's class as words."""
    return re.sub("(?<=[a-z])(?=[A-Z])", " ", type(event).__name__).lower()


def _fields(offset: int, data: bytes) -> dict[str, object]:
    """Configuration bytes by the names of their fields."""
    found = {
        name: int.from_bytes(data[at - offset : at - offset + 4], "little")
        for at, name in _FIELDS.items()
        if offset <= at and at + 4 <= offset + len(data)
    }
    return dict(found) or {"offset": offset, "bytes": len(data)}


class RecordingServer(DeviceServer):
    """A server that records what is asked of it, too; the writer is its to close."""

    def __init__(
        self,
        settings: BalloonSettings,
        sock: socket.socket,
        *,
        listening: bool,
        writer: TraceWriter,
        observe: Callable[[Event], None] = lambda _: None,
        state_path: Path | None = None,
    ) -> None:
        self._writer = writer
        super().__init__(
            settings, sock, listening=listening, observe=observe, state_path=state_path
        )

    def run(self) -> None:
        """Serve, and write the rest of the trace at the end."""
        try:
            super().run()
        finally:
            self._writer.close()

    def set_target(self, target_pages: int) -> None:
        """Ask the guest for a balloon of this many balloon pages."""
        self._note("set target", pages=target_pages)
        super().set_target(target_pages)

    def set_poll_interval(self, interval_s: int) -> None:
        """Ask for statistics every so many seconds."""
        self._note("set poll interval", seconds=interval_s)
        super().set_poll_interval(interval_s)

    def request_stats(self) -> None:
        """Ask the guest for a fresh statistics sample."""
        self._note("ask for statistics")
        super().request_stats()

    def begin_hint_round(self, lease_s: float = HINT_LEASE_S) -> None:
        """Ask the guest for free page hints."""
        self._note("begin hint round")
        super().begin_hint_round(lease_s)

    def finish_hints(self) -> None:
        """Let the guest take its hinted pages back."""
        self._note("finish hints")
        super().finish_hints()

    def _note(self, name: str, **details: object) -> None:
        """Record a request of the host, on the thread that records."""
        self.loop.post(
            lambda: self._writer.attempt(lambda: self._writer.instant(Track.HOST, name, **details))
        )

    def _make_connection(self, sock: socket.socket) -> Connection:
        return RecordingConnection(
            self._writer,
            self.loop,
            sock,
            self._balloon,
            quiet=self._quiet,
            observe=self._observed,
            ended=self._disconnected,
        )

    def _deadline_ns(self) -> int | None:
        return earliest(super()._deadline_ns(), self._writer.deadline_ns)

    def _work(self) -> bool:
        deadline_ns = self._writer.deadline_ns
        if deadline_ns is not None and deadline_ns <= time.monotonic_ns():
            self._writer.flush()
        return super()._work()
