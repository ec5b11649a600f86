"""The host's end of Hyper-V's Dynamic Memory: what QEMU's hv-balloon does.

    WAIT_RESET ─ attach ─▶ VERSION ─▶ CAPS ─▶ POST_INIT_WAIT ─▶ IDLE ⇄ operations (resizing.py)

Theory of operation.  The guest begins, and asks for a version until one is accepted.  From then on
the host asks, one operation at a time: for pages, for which the guest answers with ranges, or that
it take pages back, which the host chooses.  A message that says more than it holds, or comes when
nobody waits for it, is counted and changes nothing.  The ring's being full only makes the host
wait.  Whatever a guest does, it costs bounded memory, and nobody but itself its bytes.

The target is what the guest shall not have, as with virtio: all memory of its table less what it
shall have.  Memory to be hot-added, which it never had, counts as not the guest's from the start.
Not here: the ring, or whatever carries messages; dropping memory (balloon).
Units: 4 KiB pages, nanoseconds.  Source: QEMU hw/hyperv/hv-balloon.c.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from ballonet.balloon.clock import Clock, earliest
from ballonet.balloon.facts import ActualChanged, StatusReported
from ballonet.balloon.given_memory import GivenMemory
from ballonet.balloon.memory import BalloonMemory
from ballonet.balloon.request import TargetRequest
from ballonet.errors import SettingsError, WireError
from ballonet.hyperv.handshake import Handshake
from ballonet.hyperv.host_counters import HostCounters
from ballonet.hyperv.host_state import HostState
from ballonet.hyperv.hot_memory import HotMemory
from ballonet.hyperv.layouts import format_version
from ballonet.hyperv.message_facts import fact_of
from ballonet.hyperv.messages import (
    BalloonResponse,
    CapabilitiesReport,
    HotAddResponse,
    Message,
    StatusReport,
    UnballoonResponse,
    VersionRequest,
)
from ballonet.hyperv.outbox import Outbox
from ballonet.hyperv.page_ranges import common_pages, memory_pages, without_pages
from ballonet.hyperv.parser import parse
from ballonet.hyperv.resizing import Resizing
from ballonet.hyperv.settings import HypervHostSettings
from ballonet.units import BALLOON_PAGE_BYTES, bytes_to_pages, pages_to_bytes

__all__ = ["HypervHost", "StatusReading"]

#: Sent without a look at anything else: ranges given back can be many.
_MESSAGES_PER_TURN: Final = 64
_BYTES_MAX: Final = (1 << 64) - 1


class StatusReading(NamedTuple):
    """What a guest said of its memory, and when."""

    available_bytes: int
    committed_bytes: int
    received_ns: int


class _Guest(NamedTuple):
    """What is known of the guest that is there."""

    handshake: Handshake
    resizing: Resizing


class HypervHost:
    """One host, of one guest after another; a `SiblingHost`, for one thread."""

    kind: Final = "hyperv"

    def __init__(
        self, clock: Clock, settings: HypervHostSettings, send: Callable[[bytes], bool]
    ) -> None:
        """`send` puts a message into the ring, or returns False if that is full.

        It must not call back.  Raises: SettingsError, if extra memory does not consist of pages
        that a message can name.
        """
        extra, end = settings.extra_bytes, settings.extra_gpa + settings.extra_bytes
        if (extra | end) % BALLOON_PAGE_BYTES or end > pages_to_bytes(1 << 40):
            raise SettingsError("extra memory", extra, "whole pages of 4 KiB, below 4 PiB")
        self.settings: Final = settings
        self.given: Final = GivenMemory(clock)
        self.request: Final = TargetRequest(clock)
        self.counters: Final = HostCounters()
        self._clock = clock
        self._outbox = Outbox(clock, self.counters, send)
        first, pages = map(bytes_to_pages, (settings.extra_gpa, settings.extra_bytes))
        self._hot = HotMemory(first, pages)
        self._guest: _Guest | None = None
        self._target_changed = False  # since the last operation began
        self._has_more = False  # to send, when everything else has had its turn
        self._told_pages = 0
        self._status: StatusReading | None = None
        self._broken: str | None = None

    @property
    def state(self) -> HostState:
        """Where the conversation is."""
        if self._guest is None:
            return HostState.WAIT_RESET
        state = self._guest.handshake.state
        return self._guest.resizing.state if state is HostState.IDLE else state

    @property
    def target_pages(self) -> int:
        """What the host wants the guest not to have."""
        return self.request.target_pages

    @property
    def actual_pages(self) -> int:
        """What it does not have: removed_both, and extra memory that was not added."""
        return self._guest.resizing.actual_pages if self._guest is not None else 0

    @property
    def is_running(self) -> bool:
        """A driver has told what it can do."""
        return self._guest is not None and self._guest.handshake.are_capabilities_known

    @property
    def broken(self) -> str | None:
        """What was wrong with the first malformed message, which ended nothing."""
        return self._broken

    @property
    def capabilities(self) -> tuple[str, ...]:
        """The version, and what the driver says it can do; nothing before it has said so."""
        return self._guest.handshake.terms if self._guest is not None else ()

    @property
    def status_report(self) -> StatusReading | None:
        """The newest status report of the guest that is there, if reports are wanted."""
        return self._status

    @property
    def deadline_ns(self) -> int | None:
        """When `expired` is to be called next; None: nothing waits."""
        if self._has_more:
            return 0
        ready_ns = self._guest.handshake.ready_ns if self._guest is not None else None
        return earliest(self.given.deadline_ns, self._outbox.retry_at_ns, ready_ns)

    def attach(self, memory: BalloonMemory) -> None:
        """A guest opens the channel; memory that was hot-added before is still its own."""
        self.detach()
        self.given.attach(memory)
        pages = memory_pages(memory.table)
        extra = common_pages(self._hot.all_pages, pages)
        has_extra = extra.total_pages == self._hot.all_pages.total_pages
        hot = self._hot if has_extra else HotMemory(0, 0)
        boot = without_pages(pages, hot.all_pages)
        self._guest = _Guest(
            Handshake(self.settings, pages.total_pages),
            Resizing(self.given, self.counters, boot, hot),
        )
        self._target_changed = self.request.times.number > 0
        self._told_pages = self.actual_pages

    def detach(self) -> None:
        """The channel is closed: all is forgotten but the target and what was hot-added.

        Whoever serves another machine next calls `reset_system`, too.
        """
        if self._guest is None:
            return
        self.given.detach()
        self._outbox.clear()
        self._guest = self._status = self._broken = None
        self._has_more = False

    def reset_system(self) -> None:
        """The machine was reset: its guest, if there is one, has all memory that it starts with."""
        self.given.take_back_all()
        self._hot.release()
        memory = self.given.memory
        if memory is not None:
            self.attach(memory)

    def set_target(self, pages: int) -> None:
        """Ask for so many pages; what was asked for before is asked for again."""
        self.request.ask(pages, self.actual_pages)
        self._target_changed = True
        self._go_on()

    def received(self, message: bytes) -> None:
        """Take a message from the ring; nothing that it says is an error of the host."""
        if self._guest is None:
            return
        try:
            parsed = parse(message)
        except WireError as error:
            self.counters.malformed_messages += 1
            self._broken = self._broken or str(error)
            return
        if self.given.observers.want_details:
            self.given.observers.tell_detail(fact_of(parsed))
        if not self._take(parsed, self._guest):
            self.counters.unexpected_messages += 1
        self._go_on()

    def expired(self, *, busy: bool = False) -> bool:
        """Do what time has come for; True if more is to be done at once."""
        self._go_on()
        return self.given.work(busy=busy) or self._has_more

    def describe(self) -> dict[str, object]:
        """The protocol's own figures, as JSON takes them."""
        found: dict[str, object] = {"state": self.state.value}
        if self._guest is not None:
            version = self._guest.handshake.version
            found["version"] = format_version(version) if version else None
            found["max-pages"] = self._guest.handshake.max_pages
            found |= self._guest.resizing.described()
        return found | self.counters.described()

    def _take(self, message: Message, guest: _Guest) -> bool:
        """Do what a message is for; False if nobody waits for it."""
        if isinstance(message, StatusReport):
            return self._on_status(message)
        if not self._outbox.is_empty:  # whatever it answers was not sent yet
            return False
        match message:
            case VersionRequest():
                return self._reply(guest.handshake.version_request(message))
            case CapabilitiesReport():
                now_ns = self._clock.now_ns()
                return self._reply(guest.handshake.capabilities_report(message, now_ns))
            case BalloonResponse():
                return self._answered(was_expected=guest.resizing.balloon_response(message))
            case UnballoonResponse():
                return self._answered(was_expected=guest.resizing.unballoon_response())
            case HotAddResponse():
                return self._answered(was_expected=guest.resizing.hot_add_response(message))
        return False

    def _reply(self, messages: Sequence[bytes] | None) -> bool:
        for message in messages or ():
            self._outbox.put(message)
        return messages is not None

    def _answered(self, *, was_expected: bool) -> bool:
        if was_expected and not self._target_changed:
            self.request.read()
        self._tell_actual()
        return was_expected

    def _on_status(self, report: StatusReport) -> bool:
        """Keep it; Linux sends them whether they are wanted or not."""
        if self.settings.status_report and self.is_running:
            self._status = StatusReading(
                min(pages_to_bytes(report.available), _BYTES_MAX),
                min(pages_to_bytes(report.committed), _BYTES_MAX),
                self._clock.now_ns(),
            )
            self.given.counters.stats_messages += 1
            self.given.observers.tell(
                StatusReported(self._status.committed_bytes, self._status.available_bytes)
            )
        return self.is_running

    def _go_on(self) -> None:
        """Send what there is to send: as much as fits, and one turn allows."""
        self._has_more = False
        for _ in range(_MESSAGES_PER_TURN):
            if not self._outbox.flush() or not self._step():
                return
        self._has_more = True

    def _step(self) -> bool:
        """Take the host's next step; False: there is none, or the guest has the word."""
        if self._guest is None:
            return False
        handshake, resizing = self._guest
        handshake.end_wait(self._clock.now_ns())
        if handshake.state is not HostState.IDLE:
            return False
        if resizing.state is HostState.IDLE:
            if not self._target_changed:
                return False
            self._target_changed = False
            resizing.begin(self.target_pages, handshake.capabilities)
        message = resizing.next_message()
        if message is not None:
            self._outbox.put(message)
            if not self._target_changed:
                self.request.sent()
            self._tell_actual()
            return True
        return resizing.state is HostState.IDLE and self._target_changed

    def _tell_actual(self) -> None:
        pages = self.actual_pages
        if pages != self._told_pages:
            self._told_pages = pages
            self.request.moved(pages)
            self.given.observers.tell(ActualChanged(pages))
