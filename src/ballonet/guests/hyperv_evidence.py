"""Each capability of Hyper-V's balloon, and what else its driver does, seen of Linux's own driver.

Every observation has a host of its own: the driver begins anew with each.  The evidence is what
both have said, what the driver says in debugfs, and what its kernel counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from ballonet.balloon.facts import Fact, MessageReceived
from ballonet.errors import GuestError
from ballonet.guests.evidence import Evidence, Witness
from ballonet.guests.hyperv_guest import BLOCK_BYTES, HypervGuest
from ballonet.hyperv.floor import balloon_floor
from ballonet.hyperv.host import HypervHost
from ballonet.hyperv.host_state import HostState
from ballonet.hyperv.layouts import Capability, Version, format_version
from ballonet.hyperv.settings import HypervHostSettings
from ballonet.siblings.vmbus_serial import VmbusSerial
from ballonet.units import bytes_to_pages, format_bytes, pages_to_bytes

__all__ = ["OBSERVATIONS", "Meeting", "hyperv_witness", "observe_floor", "observe_hot_add"]

_WAIT_S: Final = 120.0
_POLL_S: Final = 0.02
_BALLOON_PAGES: Final = 20_000
#: One less than a block of 2 MiB, and one more than the ranges that a message has room for.
_SINGLE_PAGES: Final = 511
_USED_PERCENT: Final = 75
_REPORTS: Final = 3
_HOST: Final = HypervHostSettings(post_init_wait_ns=0, status_report=True)

Finding = tuple[bool, str]
T = TypeVar("T")


class Meeting:
    """The guest and one host; `said` is every message that came from the driver, in order."""

    def __init__(self, guest: HypervGuest, port: VmbusSerial) -> None:
        self.guest: Final = guest
        self.said: Final[list[MessageReceived]] = []
        self._port = port
        port.host.given.observers.add(self._hear, details=True)

    def ask(self, question: Callable[[HypervHost], T]) -> T:
        """What the host says to it between two messages."""
        return self._port.ask(question)

    def until(self, condition: Callable[[HypervHost], bool], what: str) -> None:
        """Wait until something is true of the host. Raises: GuestError, if it never is."""
        end_s = time.monotonic() + _WAIT_S
        while not self.ask(condition):
            if time.monotonic() > end_s:
                raise GuestError(f"the driver did not do it: {what}")
            time.sleep(_POLL_S)

    def settle(self, pages: int) -> None:
        """Have a balloon of this size, and its memory dropped. Raises: GuestError."""
        self.ask(lambda host: host.set_target(pages))
        self.until(lambda host: host.actual_pages == pages, f"a balloon of {pages:,} pages")
        self.until(lambda host: host.state is HostState.IDLE, "an answer")
        self.until(lambda host: host.given.deadline_ns is None, "memory dropped")

    def heard(self, name: str) -> list[MessageReceived]:
        """Messages of a name."""
        return [fact for fact in self.said if fact.name == name]

    def ranges(self) -> list[int]:
        """Of each answer to a request for pages, how many ranges it had."""
        return [int(str(one.arguments["ranges"])) for one in self.heard("BalloonResponse")]

    def _hear(self, fact: Fact) -> None:
        if isinstance(fact, MessageReceived):
            self.said.append(fact)


def observe_version(meeting: Meeting) -> Finding:
    """Refused, the driver offers the next older one, and says with the last that it is the last."""
    asked = [one.arguments for one in meeting.heard("VersionRequest")]
    offered = [format_version(int(str(one["version"]))) for one in asked]
    said = meeting.guest.hv_balloon()["host_version"]
    text = f"offered {', '.join(offered)}, the last one as such; with the others refused: {said}"
    ladder = [format_version(version) for version in reversed(Version)]
    return offered == ladder and [one["is_last"] for one in asked] == [False, False, True], text


def observe_balloon(meeting: Meeting) -> Finding:
    """Pages are given, and dropped by the host; what the guest counts as its own falls by them."""
    guest = meeting.guest
    before, held = guest.shell.meminfo()["MemTotal"], guest.linux.memory.held_bytes()
    meeting.settle(_BALLOON_PAGES)
    fell, inside = before - guest.shell.meminfo()["MemTotal"], guest.linux.memory.held_bytes()
    counted, ranges = int(guest.hv_balloon()["pages_ballooned"]), sum(meeting.ranges())
    text = (
        f"{_BALLOON_PAGES:,} pages in {ranges} ranges, {counted:,} in debugfs: MemTotal fell by"
        f" {format_bytes(fell)}, host memory {format_bytes(held)} → {format_bytes(inside)}"
    )
    meeting.settle(0)
    is_dropped = held - inside > pages_to_bytes(_BALLOON_PAGES) // 2
    return is_dropped and fell == pages_to_bytes(_BALLOON_PAGES), text


def observe_hot_add(meeting: Meeting) -> Finding:
    """The guest gets memory that it did not have when it was started."""
    shell = meeting.guest.shell
    before = shell.meminfo()["MemTotal"]
    meeting.settle(0)
    added = shell.meminfo()["MemTotal"] - before
    answer = meeting.heard("HotAddResponse")[-1].arguments
    counted = int(meeting.guest.hv_balloon()["pages_onlined"])
    text = (
        f"MemTotal {format_bytes(before)} → {format_bytes(before + added)}; answer"
        f" {answer['pages']:,} pages, result {answer['result']}; {counted:,} on-lined in debugfs"
    )
    return added == BLOCK_BYTES and answer["result"] == 1, text


def observe_alignment(meeting: Meeting) -> Finding:
    """Memory to be added must be aligned to the guest's own blocks."""
    report = int(str(meeting.heard("CapabilitiesReport")[0].arguments["capabilities"]))
    alignment = Capability.alignment_mib(report) << 20
    text = f"capabilities {report:#x}: {format_bytes(alignment)}"
    block = int(meeting.guest.shell.check("cat /sys/devices/system/memory/block_size_bytes"), 16)
    return alignment == block, f"{text}, as block_size_bytes says"


def observe_hot_remove(meeting: Meeting) -> Finding:
    """Linux does not offer it, and the host asks for none."""
    report = int(str(meeting.heard("CapabilitiesReport")[0].arguments["capabilities"]))
    is_absent = not report & Capability.HOT_REMOVE
    return is_absent, "the driver leaves the bit clear, and is asked for nothing"


def observe_status(meeting: Meeting) -> Finding:
    """The driver reports its memory every second."""
    meeting.until(lambda _: len(meeting.heard("StatusReport")) >= _REPORTS, "status reports")
    reading = meeting.ask(lambda host: host.status_report)
    available = meeting.guest.shell.meminfo()["MemAvailable"]
    if reading is None:
        return False, "none is kept"
    text = (
        f"{_REPORTS} reports; available {format_bytes(reading.available_bytes)}, MemAvailable"
        f" {format_bytes(available)}; committed {format_bytes(reading.committed_bytes)}"
    )
    return abs(reading.available_bytes - available) < available // 8, text


def observe_full_message(meeting: Meeting) -> Finding:
    """Single pages are ranges of one; with 510 of them a message is full."""
    meeting.settle(_SINGLE_PAGES)
    more = [one.arguments["more"] for one in meeting.heard("BalloonResponse")]
    ranges = meeting.ranges()
    meeting.settle(0)
    first, *others = ranges
    text = (
        f"{_SINGLE_PAGES} pages, fewer than a block of 2 MiB has: {first} ranges and more to come,"
        f" then {', '.join(map(str, others))}"
    )
    return ranges == [510, 1] and more == [True, False], text


def observe_floor(meeting: Meeting) -> Finding:
    """Asked for everything, the guest keeps a part, and says that there is no more."""
    meeting.ask(lambda host: host.set_target(bytes_to_pages(1 << 40)))
    meeting.until(lambda _: 0 in meeting.ranges(), "an answer without a range")
    left = meeting.guest.shell.meminfo()
    floor = pages_to_bytes(balloon_floor(bytes_to_pages(left["MemTotal"])))
    given = meeting.ask(lambda host: host.actual_pages)
    text = (
        f"asked for everything it gave {given:,} pages, then none: {format_bytes(floor)} is the"
        f" floor of the {format_bytes(left['MemTotal'])} left, MemAvailable"
        f" {format_bytes(left['MemAvailable'])}"
    )
    meeting.settle(0)
    return 0.8 * floor < left["MemAvailable"] < 2 * floor, text


def observe_refused_memory(meeting: Meeting) -> Finding:
    """Memory that the guest has already is not added: none, and never."""
    meeting.ask(lambda host: host.set_target(0))
    meeting.until(lambda _: bool(meeting.heard("HotAddResponse")), "an answer")
    answer = meeting.heard("HotAddResponse")[0].arguments
    text = (
        f"of memory that it has already the guest takes {answer['pages']} pages, result"
        f" {answer['result']}: it never will"
    )
    return (answer["pages"], answer["result"]) == (0, 1), text


@dataclass(frozen=True, slots=True)
class Observation:
    """What is looked at, and with what host."""

    look: Callable[[Meeting], Finding]
    settings: HypervHostSettings = _HOST
    adds_memory: bool = False  #: it has the memory that the guest's kernel does not know of
    bit: int | None = None  #: of the driver's capabilities


#: Memory that was added stays with the guest, of which a later host knows nothing: at the end.
OBSERVATIONS: Final = {
    "balloon": Observation(observe_balloon, bit=0),
    "alignment": Observation(observe_alignment, bit=2),
    "hot remove": Observation(observe_hot_remove, bit=6),
    "version": Observation(observe_version, replace(_HOST, version_max=Version.V0_3)),
    "status report": Observation(observe_status),
    "full message": Observation(observe_full_message),
    "floor": Observation(observe_floor),
    "hot add": Observation(observe_hot_add, adds_memory=True, bit=1),
    "refused memory": Observation(observe_refused_memory, adds_memory=True),
}


class HypervWitness:
    """A `Witness` of a guest that finds Hyper-V's bus."""

    def __init__(self, guest: HypervGuest) -> None:
        self._guest = guest
        self.subject: Final = "Capabilities of Hyper-V's balloon"
        self.names: Final = tuple(OBSERVATIONS)

    @property
    def release(self) -> str:
        """See `Witness`."""
        return self._guest.linux.release

    def observe(self) -> Iterator[Evidence]:
        """See `Witness`."""
        self._guest.shell.use_memory(_USED_PERCENT)
        for name, observation in OBSERVATIONS.items():
            yield self._make(name, observation)

    def _make(self, name: str, observation: Observation) -> Evidence:
        guest, settings = self._guest, observation.settings
        if observation.adds_memory:
            settings = replace(
                settings, extra_gpa=guest.memory_bytes, extra_bytes=guest.spare_bytes
            )
        with guest.served(settings) as port:
            meeting = Meeting(guest, port)
            meeting.until(lambda host: host.is_running, "say what it can do")
            observed, text = observation.look(meeting)
            negotiated = any(name in one for one in meeting.ask(lambda host: host.capabilities))
        if observation.bit is None:
            return Evidence(name, observed, text)
        return Evidence(
            name, observed, text, bit=observation.bit, offered=True, negotiated=negotiated
        )


@contextmanager
def hyperv_witness(memory_bytes: int) -> Iterator[Witness]:
    """A guest in QEMU with Debian's kernel, and memory to add to it. Raises: GuestError."""
    whole_blocks = memory_bytes - memory_bytes % BLOCK_BYTES
    with HypervGuest(whole_blocks, spare_bytes=BLOCK_BYTES) as guest:
        yield HypervWitness(guest)
