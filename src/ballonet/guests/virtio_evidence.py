"""Each feature of virtio's balloon, observed on a running kernel.

Every observation drives the device, and takes what the kernel itself counts, logs or does as the
evidence.  They are to be made in the order of `OBSERVATIONS`: the last one runs the guest out of
memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from ballonet.device.balloon import BalloonSettings
from ballonet.errors import GuestError
from ballonet.guests.ballooned import BalloonedGuest
from ballonet.guests.evidence import Evidence, Witness
from ballonet.guests.hinting import run_hint_round
from ballonet.guests.linux import LinuxGuestSettings
from ballonet.units import format_bytes, pages_to_bytes
from ballonet.virtio.features import BALLOON_FEATURES, RING_FEATURES, Feature

__all__ = ["OBSERVATIONS", "OutOfMemory", "run_out_of_memory", "virtio_witness"]

#: Makes the driver accept PAGE_POISON: its free pages hold zeros, and it says so.
_POISONING: Final = "init_on_free=1"
_REPORT_WAIT_S: Final = 120.0  # a pass over free memory every two seconds, a part of it each time
_WAIT_S: Final = 60.0
_POLL_S: Final = 0.02
#: Free page reporting takes up to 32 blocks of 4 MiB off the kernel's lists while it reports them,
#: two seconds after they were freed: a round may meet it.
_HINT_ROUNDS_MAX: Final = 5


Finding = tuple[bool, str]
Observation = Callable[[BalloonedGuest], Finding]


@dataclass(frozen=True, slots=True)
class OutOfMemory:
    """A guest whose memory ran out while it had a balloon; pages are balloon pages."""

    needed_mib: int
    pages: int  #: in the balloon before
    left_pages: int  #: in it then
    has_ended_well: bool  #: the process that needed memory got it
    was_killed: bool  #: a process was

    @property
    def taken_pages(self) -> int:
        """Taken out of the balloon for it."""
        return self.pages - self.left_pages


class VirtioWitness:
    """A `Witness` of a guest whose device offers everything."""

    def __init__(self, machine: BalloonedGuest) -> None:
        self._machine = machine
        self.subject: Final = "Features of the balloon"
        self.names: Final = tuple(str(feature.name) for feature in OBSERVATIONS)

    @property
    def release(self) -> str:
        """See `Witness`."""
        return self._machine.guest.release

    def observe(self) -> Iterator[Evidence]:
        """See `Witness`."""
        negotiated = self._machine.device.status().negotiated
        for feature, look in OBSERVATIONS.items():
            is_negotiated = feature in negotiated
            finding = look(self._machine) if is_negotiated else (False, "the driver declined it")
            yield Evidence(
                str(feature.name),
                *finding,
                bit=feature.value.bit_length() - 1,
                offered=True,
                negotiated=is_negotiated,
            )


@contextmanager
def virtio_witness(memory_bytes: int) -> Iterator[Witness]:
    """A guest in User-Mode Linux, whose kernel accepts every feature. Raises: GuestError."""
    with BalloonedGuest(
        LinuxGuestSettings(memory_bytes, command_line=(_POISONING,)),
        BalloonSettings(RING_FEATURES | BALLOON_FEATURES),
    ) as machine:
        yield VirtioWitness(machine)


def observe_must_tell_host(machine: BalloonedGuest) -> Finding:
    """Every page of the balloon is asked back before the guest uses it again."""
    pages = machine.guest.settings.memory_bytes >> 14
    before, vmstat_before = machine.device.status().counters, machine.guest.vmstat()
    _resize(machine, pages)
    _resize(machine, 0)
    after, vmstat = machine.device.status().counters, machine.guest.vmstat()
    kernel = vmstat["balloon_deflate"] - vmstat_before["balloon_deflate"]
    asked = after.deflated_pages - before.deflated_pages
    text = f"kernel took {kernel:,} pages back (balloon_deflate), asked the device for {asked:,}"
    return kernel == asked == pages, text


def observe_stats_vq(machine: BalloonedGuest) -> Finding:
    """The guest sends its statistics when asked, and they are true."""
    begun = time.monotonic()
    reading = machine.device.stats.read(_WAIT_S)
    took_ms = (time.monotonic() - begun) * 1000
    total, said = machine.guest.meminfo()["MemTotal"], reading.sample.value("memtot")
    count = len(reading.sample.values) + len(reading.sample.unknown)
    text = f"{count} statistics in {took_ms:.0f} ms; memtot {format_bytes(said)}"
    return said == total, f"{text}, MemTotal in the guest {format_bytes(total)}"


def observe_free_page_hint(machine: BalloonedGuest) -> Finding:
    """The guest names nearly all of its free memory, and has it back after DONE."""
    for _ in range(_HINT_ROUNDS_MAX):
        free_before = machine.guest.meminfo()["MemFree"]
        result = run_hint_round(machine.device)
        # Neither the round nor the figure that it is compared with has met a report.
        if free_before * 9 <= result.hinted_bytes * 10 <= free_before * 11:
            break
    free_after = 0

    def is_back() -> bool:
        """A report under way keeps some of it for a moment."""
        nonlocal free_after
        free_after = machine.guest.meminfo()["MemFree"]
        return free_after * 10 >= free_before * 9

    has_come_back = _wait(is_back)
    text = (
        f"{format_bytes(result.hinted_bytes)} of {format_bytes(free_before)} free memory hinted"
        f" in {result.seconds * 1000:.0f} ms; {format_bytes(free_after)} free after DONE"
    )
    return has_come_back and result.hinted_bytes * 10 >= free_before * 9, text


def observe_page_poison(machine: BalloonedGuest) -> Finding:
    """The driver says what its free pages hold."""
    value = machine.device.status().poison_val
    if value is None:
        return False, "the driver accepted it, and never wrote poison_val"
    return True, f"poison_val {value:#x} written, by a kernel with {_POISONING}"


def observe_page_reporting(machine: BalloonedGuest) -> Finding:
    """Memory that the guest frees goes back to the host without any command."""
    device, guest = machine.device, machine.guest
    enabled = "Free page reporting enabled" in guest.check("dmesg")
    mebibytes = guest.meminfo()["MemAvailable"] // 2 >> 20
    guest.check(f"dd if=/dev/zero of=/tmp/fill bs=1M count={mebibytes}")
    used, commands = device.status(), guest.vmstat()["balloon_inflate"]
    guest.check("rm /tmp/fill")
    want = used.held_bytes - (mebibytes << 20) * 3 // 4
    begun = time.monotonic()
    fell = _wait(lambda: device.status().held_bytes < want, _REPORT_WAIT_S)
    took_s = time.monotonic() - begun
    now = device.status()
    commands = guest.vmstat()["balloon_inflate"] - commands
    text = (
        f"host memory {format_bytes(used.held_bytes)} → {format_bytes(now.held_bytes)} in"
        f" {took_s:.0f} s after the guest freed {mebibytes} MiB, {commands} pages inflated"
    )
    return enabled and fell and commands == 0, text


def observe_deflate_on_oom(machine: BalloonedGuest) -> Finding:
    """A guest that runs out of memory takes it from the balloon instead of killing."""
    found = run_out_of_memory(machine)
    _resize(machine, 0)
    before, then = (format_bytes(pages_to_bytes(one)) for one in (found.pages, found.left_pages))
    text = (
        f"a process needed {found.needed_mib} MiB: the balloon went from {before} to {then},"
        f" {'a' if found.was_killed else 'no'} process was killed"
    )
    return found.has_ended_well and found.taken_pages > 0 and not found.was_killed, text


def run_out_of_memory(machine: BalloonedGuest) -> OutOfMemory:
    """Let a process need more than a balloon leaves, and less than there would be without it.

    Raises: GuestError.
    """
    guest = machine.guest
    pages = guest.meminfo()["MemAvailable"] * 3 // 4 >> 12
    _resize(machine, pages)
    need = guest.meminfo()["MemAvailable"] + pages_to_bytes(pages // 4) >> 20
    overcommit = "echo 1 > /proc/sys/vm/overcommit_memory"
    # The code is printed, because a command that is killed itself is an error.
    code = guest.check(f"{overcommit}; dd if=/dev/zero of=/dev/null bs={need}M count=1; echo $?")
    return OutOfMemory(
        needed_mib=need,
        pages=pages,
        left_pages=machine.device.status().actual_pages,
        has_ended_well=code.split()[-1] == "0",
        was_killed="Out of memory: Killed process" in guest.kernel_log(),
    )


OBSERVATIONS: Final[dict[Feature, Observation]] = {
    Feature.MUST_TELL_HOST: observe_must_tell_host,
    Feature.STATS_VQ: observe_stats_vq,
    Feature.FREE_PAGE_HINT: observe_free_page_hint,
    Feature.PAGE_POISON: observe_page_poison,
    Feature.PAGE_REPORTING: observe_page_reporting,
    Feature.DEFLATE_ON_OOM: observe_deflate_on_oom,
}


def _resize(machine: BalloonedGuest, pages: int) -> None:
    if not machine.resize(pages, stalled_after_s=_WAIT_S).reached:
        raise GuestError(f"the balloon did not reach {format_bytes(pages_to_bytes(pages))}")


def _wait(condition: Callable[[], bool], timeout_s: float = _WAIT_S) -> bool:
    """True as soon as the condition holds; False if it does not in time."""
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(_POLL_S)
    return True
