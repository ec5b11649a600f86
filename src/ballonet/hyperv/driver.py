"""The guest's end of Hyper-V's Dynamic Memory: what Linux's hv_balloon does, on our guest kernel.

Theory of operation.  `start` begins the handshake: versions from the newest to the oldest, then
what the guest can do; the host has 5 s for either, and a host that refuses all is left alone.  From
then on the host asks.  What takes time is done by one task, in the order in which it was asked for;
pages that come back are free as soon as they are heard of.
A host that is wrong is borne: what cannot be read, or is not for now, is counted and changes
nothing, and the floor holds whatever it asks for.

Hot add is refused for good: our guest kernel has the frames it was made with.  Linux without
memory hotplug offers it all the same, and answers so, result 1 with no page.
When it stops, pages in the balloon stay there, as with Linux: the host has not given them back.
Not here: what carries messages to the host.
Units: 4 KiB pages.  Source: Linux drivers/hv/hv_balloon.c.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import Final

from ballonet.balloon.clock import NS_PER_S
from ballonet.errors import WireError
from ballonet.hyperv.balloon_worker import BalloonWorker
from ballonet.hyperv.guest_channel import GuestChannel, MakeMessage
from ballonet.hyperv.layouts import Capability, Version, format_version
from ballonet.hyperv.messages import (
    BalloonRequest,
    CapabilitiesReport,
    CapabilitiesResponse,
    HotAddRequest,
    HotAddResponse,
    Info,
    Message,
    UnballoonRequest,
    UnballoonResponse,
    VersionRequest,
    VersionResponse,
)
from ballonet.hyperv.parser import parse
from ballonet.hyperv.settings import HypervDriverSettings
from ballonet.hyperv.status_worker import StatusWorker
from ballonet.kernel.kernel import Kernel
from ballonet.kernel.tasks import Flag, Job, Rest, Sleep, Task
from ballonet.units import BALLOON_PAGE_BYTES

__all__ = ["DriverState", "HypervDriver"]

_VERSIONS: Final = (Version.V2_0, Version.V1_0, Version.V0_3)
_ANSWER_NS: Final = 5 * NS_PER_S
#: What Linux wants hot-added memory aligned to, where it has no memory hotplug.
_ALIGNMENT_MIB: Final = 128


class DriverState(Enum):
    """Linux's names."""

    INITIALIZING = "initializing"
    INITIALIZED = "initialized"
    INIT_ERROR = "init-error"  #: the host refused, or was silent


class HypervDriver:
    """One driver of one channel."""

    def __init__(
        self, kernel: Kernel, send: Callable[[bytes], bool], settings: HypervDriverSettings
    ) -> None:
        """`send` puts a message into the ring, or returns False if that is full."""
        self.kernel: Final = kernel
        self.settings: Final = settings
        self.state = DriverState.INITIALIZING
        self.version = 0  #: offered last, or agreed upon
        self.max_pages: int | None = None  #: what the host says it will ever have
        self.malformed_messages = 0
        self.unexpected_messages = 0
        self._channel = GuestChannel(kernel.scheduler, send)
        self.balloon: Final = BalloonWorker(kernel, self._channel)
        self.status: Final = StatusWorker(kernel, self._channel, settings.pressure_report_delay)
        self._awaited: type[Message] | None = None  # answer of the handshake
        self._is_accepted = False  # what it said
        self._answered = Flag()
        self._wanted = Flag()  # the worker has something to do
        self._asked_pages: int | None = None  # of the newest balloon request that is not begun
        self._target_pages = 0
        self._owed: dict[type[Message], MakeMessage] = {}  # answers, one of a kind
        self._tasks: list[Task] = []

    @property
    def actual_pages(self) -> int:
        """In the balloon."""
        return self.balloon.pages

    @property
    def target_pages(self) -> int:
        """What the balloon would be if the guest could do all that it was asked for last."""
        return self._target_pages

    def start(self) -> None:
        """Begin the handshake; the rest follows when the host has agreed."""
        self._spawn("hv_balloon probe", self._shake_hands())

    def received(self, raw: bytes) -> None:
        """Take a message from the ring."""
        if not self._channel.is_open:
            return
        try:
            message = parse(raw)
        except WireError:
            self.malformed_messages += 1
            return
        if isinstance(message, VersionResponse | CapabilitiesResponse):
            is_expected = self._take_answer(message)
        else:
            is_expected = self.state is DriverState.INITIALIZED and self._take(message)
        self.unexpected_messages += not is_expected

    def stop(self) -> Job[None]:
        """Close the channel; returns when nothing of the driver is under way."""
        self._channel.is_open = False
        self._answered.set()
        self._wanted.set()
        self.status.wake()
        for task in self._tasks:
            if not task.done.is_set:
                yield task.done

    def describe(self) -> dict[str, object]:
        """Its figures by name."""
        return {
            "state": self.state.value,
            "version": format_version(self.version),
            "max-pages": self.max_pages,
            "trans-id": self._channel.trans_id,
            "clipped-requests": self.balloon.clipped_requests,
            "ignored-pages": self.balloon.ignored_pages,
            "status-reports": self.status.sent_reports,
            "full-rings": self._channel.full_rings,
            "malformed-messages": self.malformed_messages,
            "unexpected-messages": self.unexpected_messages,
        }

    def _spawn(self, name: str, job: Job[None]) -> None:
        self._tasks.append(self.kernel.scheduler.spawn(name, job))

    def _shake_hands(self) -> Job[None]:
        end_ns = self.kernel.scheduler.now_ns + _ANSWER_NS
        for version in _VERSIONS:
            self.version = version
            is_last = version is _VERSIONS[-1]
            request = partial(VersionRequest, version=version, is_last=is_last)
            if (yield from self._ask(request, VersionResponse, end_ns)):
                end_ns = self.kernel.scheduler.now_ns + _ANSWER_NS
                report = partial(CapabilitiesReport, capabilities=self._capabilities())
                if (yield from self._ask(report, CapabilitiesResponse, end_ns)):
                    return
                break
        self.state = DriverState.INIT_ERROR

    def _ask(self, make: MakeMessage, awaited: type[Message], end_ns: int) -> Job[bool]:
        """Ask the host; True if it agrees in time."""
        self._is_accepted = False
        self._answered.clear()
        self._awaited = awaited
        if (yield from self._channel.send(make, end_ns)):
            while not self._answered.is_set and self.kernel.scheduler.now_ns < end_ns:
                yield Sleep(end_ns - self.kernel.scheduler.now_ns, self._answered)
        self._awaited = None
        return self._is_accepted

    def _capabilities(self) -> int:
        """Pages of the balloon have 4 KiB: a guest with others has none to give."""
        found = Capability.HOT_ADD | Capability.of_alignment(_ALIGNMENT_MIB)
        if self.kernel.page_bytes == BALLOON_PAGE_BYTES:
            found |= Capability.BALLOON
        return found

    def _take_answer(self, answer: VersionResponse | CapabilitiesResponse) -> bool:
        if type(answer) is not self._awaited:
            return False
        self._awaited = None
        self._is_accepted = answer.is_accepted
        # Here and not in the task: the host's first request may be the next thing that is heard.
        if isinstance(answer, CapabilitiesResponse) and answer.is_accepted:
            self.state = DriverState.INITIALIZED
            self._spawn("hv_balloon", self._work())
            self._spawn("hv_balloon status", self.status.run())
        self._answered.set()
        return True

    def _take(self, message: Message) -> bool:
        match message:
            case BalloonRequest(_, pages):
                if self._has_balloon:
                    self._asked_pages = pages
                    self._target_pages = self.actual_pages + pages
            case UnballoonRequest(_, ranges, more):
                if self._has_balloon:
                    self.balloon.deflate(ranges)
                    self._target_pages = self.actual_pages
                    self.status.wake()
                    if not more:
                        self._owed[UnballoonResponse] = UnballoonResponse
            case HotAddRequest():
                self._owed[HotAddResponse] = partial(HotAddResponse, pages=0, result=1)
            case Info(_, data, 0):
                self.max_pages = data
            case _:
                return False
        self._wanted.set()
        return True

    @property
    def _has_balloon(self) -> bool:
        """Without one the host is not told: it has to bear silence."""
        return not self.settings.hibernation and self.kernel.page_bytes == BALLOON_PAGE_BYTES

    def _work(self) -> Job[None]:
        """Do what the host asks, for as long as the channel is open."""
        while self._channel.is_open:
            yield Rest(self._wanted)
            self._wanted.clear()
            asked_pages, self._asked_pages = self._asked_pages, None
            if asked_pages is not None and self._channel.is_open:
                yield from self.balloon.inflate(asked_pages)
                self.status.post()
            while self._owed:
                _, make = self._owed.popitem()
                yield from self._channel.send(make)
