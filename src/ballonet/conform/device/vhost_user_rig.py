"""Devices behind a vhost-user socket: ours, or anybody's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from ballonet.balloon.facts import Fact, PagesHinted
from ballonet.conform.checks import NotApplicable
from ballonet.conform.device.marked_memory import MarkedMemory
from ballonet.conform.device.rig import EVERYTHING, HostControl
from ballonet.conform.device.session import DeviceSession, Heard
from ballonet.control.device_control import DeviceControl, controlling
from ballonet.device.balloon import BalloonSettings
from ballonet.errors import GuestError, MapError, SettingsError
from ballonet.guests.processes import PrivateDirectory
from ballonet.memory.regions import Region
from ballonet.memory.shared_file import SharedFile
from ballonet.runtime.event_loop import EventLoop
from ballonet.vhost_user.frontend import FrontEnd, SharedRegion
from ballonet.vhost_user.listener import listening_socket
from ballonet.virtio.features import BALLOON_FEATURES, RING_FEATURES, Feature
from ballonet.virtio.stats import STATS

__all__ = ["OwnRig", "VhostUserRig"]

_MEMORY_BYTES: Final = 128 << 20
_UVA: Final = 1 << 40
_BIG_PAGE: Final = 2 << 20
_LEASE_S: Final = 30.0


class VhostUserRig:
    """A device at a socket; each session is a connection."""

    control: HostControl | None = None

    def __init__(self, path: Path) -> None:
        self.name = f"the device at {path}"
        self._path = path

    @contextmanager
    def session(
        self,
        wanted: Feature = EVERYTHING,
        *,
        packed: bool = False,
        legacy: bool = False,
        big_pages: bool = False,
    ) -> Iterator[DeviceSession]:
        """A session. Raises: NotApplicable; GuestError."""
        if legacy:
            raise NotApplicable("vhost-user has no legacy interface")
        with ExitStack() as stack:
            path = self._start(stack, big_pages=big_pages)
            memory = stack.enter_context(self._memory(big_pages=big_pages))
            loop = EventLoop()
            stack.callback(loop.close)
            heard = Heard()
            front_end = FrontEnd(
                loop,
                path,
                [SharedRegion(Region(0, memory.size, _UVA, 0), memory.fd)],
                called=lambda queue: _count(heard, queue),
                config_changed=lambda: _note_change(heard),
            )
            stack.callback(front_end.close)
            front_end.connect()
            marked = MarkedMemory(memory, 4096)
            session = DeviceSession(front_end, marked, heard, lambda wait_s: _turn(loop, wait_s))
            session.begin(wanted)
            if packed:
                session.need(Feature.RING_PACKED)
            yield session

    def _start(self, _: ExitStack, *, big_pages: bool) -> Path:
        """Make sure that there is a device; returns its socket."""
        del big_pages
        return self._path

    def _memory(self, *, big_pages: bool) -> SharedFile:
        try:
            return SharedFile("ballonet-conform", _MEMORY_BYTES, huge=big_pages)
        except (GuestError, MapError) as error:
            raise NotApplicable(f"this machine has no huge pages to spare: {error}") from error


class OwnRig(VhostUserRig):
    """Our device, a fresh one for each session."""

    def __init__(self) -> None:
        self.name = "ballonet's device"
        self._control = _OwnControl()
        self.control = self._control

    def _start(self, stack: ExitStack, *, big_pages: bool) -> Path:
        path = stack.enter_context(PrivateDirectory("ballonet-conform-")) / "device"
        sock = stack.enter_context(listening_socket(path))
        offer = RING_FEATURES | BALLOON_FEATURES | Feature.RING_PACKED | Feature.IN_ORDER
        page_bytes = _BIG_PAGE if big_pages else 4096
        settings = BalloonSettings(offer, host_page_bytes=page_bytes)
        control = stack.enter_context(controlling(settings, sock))
        control.subscribe(self._control.observe)
        self._control.attend(control)
        return path

    def _memory(self, *, big_pages: bool) -> SharedFile:
        del big_pages  # the device is told to take its pages to be big
        return SharedFile("ballonet-conform", _MEMORY_BYTES)


class _OwnControl:
    """The host's side of our device, without a monitor between."""

    def __init__(self) -> None:
        self._device: DeviceControl | None = None
        self._hinted: set[int] = set()

    def attend(self, device: DeviceControl) -> None:
        """From now on this device is meant."""
        self._device = device
        self._hinted.clear()

    def observe(self, fact: Fact) -> None:
        """On the device's thread: note the pages a migration would not send."""
        if isinstance(fact, PagesHinted):
            for first, count in zip(fact.runs.first_pfns, fact.runs.pages, strict=True):
                self._hinted.update(range(int(first), int(first + count)))

    def set_target(self, pages: int) -> None:
        """Ask for a balloon of so many balloon pages."""
        self._balloon.set_target(pages)

    def actual_pages(self) -> int:
        """What the host believes to be in the balloon."""
        return self._balloon.status().actual_pages

    def set_poll_interval(self, seconds: int) -> None:
        """Ask for statistics again and again. Raises: GuestError."""
        try:
            self._balloon.stats.set_poll_interval(seconds)
        except SettingsError as error:
            raise GuestError(str(error)) from error

    def statistics(self) -> dict[str, int]:
        """The last values, by QEMU's keys."""
        sample = self._balloon.status().sample
        return {} if sample is None else {row.qemu_key: sample.value(row.name) for row in STATS}

    def begin_hints(self) -> None:
        """Begin a pass."""
        self._hinted.clear()
        self._balloon.hints.begin(_LEASE_S)

    def end_hints(self) -> None:
        """End the pass, and the migration."""
        self._balloon.hints.stop(_LEASE_S).result()
        self._balloon.hints.finish()

    def cancel_hints(self) -> None:
        """End the migration, whatever it has done."""
        self._balloon.hints.finish()

    def was_skipped(self, pfn: int) -> bool:
        """The page was hinted in the round."""
        return pfn in self._hinted

    @property
    def _balloon(self) -> DeviceControl:
        if self._device is None:
            raise GuestError("the device does not run")
        return self._device


def _turn(loop: EventLoop, wait_s: float) -> None:
    loop.turn(wait_s)


def _count(heard: Heard, queue: int) -> None:
    heard.calls[queue] = heard.calls.get(queue, 0) + 1


def _note_change(heard: Heard) -> None:
    heard.config_changes += 1
