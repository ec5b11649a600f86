"""The real vmw_balloon of Debian's kernel, served by our host.

One guest for all tests, and a host of its own for each: the driver begins anew with every one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.support.wait import wait_until

from ballonet.balloon.facts import Fact, MessageReceived
from ballonet.guests.vmware_guest import VmwareGuest
from ballonet.runtime.system_clock import SystemClock
from ballonet.siblings.port_server import PortServer
from ballonet.vmware.calls import ALL_CAPABILITIES, HUGE_PAGES, Capability
from ballonet.vmware.host import VmwareHost, VmwareHostSettings
from ballonet.vmware.lock_policy import RefusedPages

pytestmark = pytest.mark.xdist_group("vmware")

MIB = 1 << 20
MEMORY_BYTES = 384 * MIB
BALLOON_BYTES = 50_000 << 12
#: What a guest does beside it.
SLACK_BYTES = 16 * MIB
BATCHED = Capability.BASIC | Capability.BATCHED
#: Of a file in the guest.
SUM = "md5sum /tmp/pattern"
COMPACT = "echo 1 > /proc/sys/vm/compact_memory"
Say = Callable[[str, object], None]


class Served:
    """The guest, its host, and what they said to each other."""

    def __init__(self, guest: VmwareGuest, server: PortServer) -> None:
        self.guest, self._server = guest, server
        self.heard: list[MessageReceived] = []
        server.host.given.observers.add(self._hear, details=True)

    def do(self, command: Callable[[VmwareHost], object]) -> None:
        """Have the host do something between two calls."""
        self._server.ask(command)

    @property
    def actual_pages(self) -> int:
        return self._server.ask(lambda host: host.actual_pages)

    def pfns(self) -> set[int]:
        """Every page in the balloon, each of its 4 KiB."""
        return self._server.ask(lambda host: set(np.flatnonzero(_is_locked(host)).tolist()))

    def aim(self, target_pages: int) -> None:
        self.do(lambda host: host.set_target(target_pages))

    def settle(self, target_pages: int) -> None:
        """The balloon has this size, and the host has what it was given."""
        self.aim(target_pages)
        wait_until(lambda: self.actual_pages == target_pages, 60, f"{target_pages} pages")
        wait_until(lambda: self._server.ask(_waiting_bytes) == 0, 60, "nothing waits")

    def ask(self, question: Callable[[VmwareHost], bool], message: str) -> None:
        """Wait until something is true of the host."""
        wait_until(lambda: self._server.ask(question), 60, message)

    def held_bytes(self) -> int:
        """Host memory behind the guest: the blocks of its file."""
        return self.guest.linux.memory.held_bytes()

    def _hear(self, fact: Fact) -> None:
        if isinstance(fact, MessageReceived):
            self.heard.append(fact)


def _is_locked(host: VmwareHost) -> NDArray[np.bool_]:
    return host.locked.hold(np.arange(MEMORY_BYTES >> 12, dtype=np.uint64), 1)


def _waiting_bytes(host: VmwareHost) -> int:
    return host.given.ledger.waiting_bytes


@pytest.fixture(scope="module")
def guest() -> Iterator[VmwareGuest]:
    with VmwareGuest(MEMORY_BYTES) as running:
        running.vmmemctl()  # it counts nothing before somebody has looked
        yield running


@contextmanager
def serve(guest: VmwareGuest, offered: Capability) -> Iterator[Served]:
    """A host that offers this, as soon as the driver has begun with it."""
    host = VmwareHost(SystemClock(), VmwareHostSettings(offered), ring_doorbell=None)
    with guest.served(host) as server:
        served = Served(guest, server)
        served.ask(lambda host: host.is_running, "the driver does not start")
        yield served
        assert server.problem is None
        assert server.ask(lambda host: host.broken) is None
        served.settle(0)


def test_it_inflates_to_50_000_pages_and_back_and_no_byte_of_the_guest_changes(
    guest: VmwareGuest, record_property: Say
) -> None:
    shell = guest.shell
    shell.check("dd if=/dev/urandom of=/tmp/pattern bs=1M count=8")
    pattern = shell.check(SUM)
    guest.linux.populate()
    with serve(guest, BATCHED) as served:
        free, held, counted = shell.meminfo()["MemFree"], served.held_bytes(), guest.vmmemctl()
        served.settle(50_000)
        inside, now = served.held_bytes(), guest.vmmemctl()
        record_property("vmw_balloon on", f"Linux {guest.linux.release}, in QEMU")
        text = f"{held / MIB:.0f} MiB of the host's -> {inside / MIB:.0f} MiB"
        record_property("vmw_balloon with 50,000 pages", text)
        assert now["current"] == 50_000
        assert now["batchLock calls"] - counted["batchLock calls"] >= 50_000 / 512
        assert now["batchLock failed"] == counted["batchLock failed"]
        assert abs(free - shell.meminfo()["MemFree"] - BALLOON_BYTES) < SLACK_BYTES
        assert abs(held - inside - BALLOON_BYTES) < SLACK_BYTES
        assert shell.check(SUM) == pattern
        served.settle(0)
        assert guest.vmmemctl()["current"] == 0
        assert abs(free - shell.meminfo()["MemFree"]) < SLACK_BYTES
        # More than the guest has besides what was in the balloon.
        used = free - BALLOON_BYTES + 64 * MIB
        shell.check(f"dd if=/dev/zero of=/tmp/fill bs=1M count={used // MIB}; rm /tmp/fill")
        assert 64 * MIB - SLACK_BYTES < served.held_bytes() - inside <= BALLOON_BYTES
        assert shell.check(SUM) == pattern
    shell.check("rm /tmp/pattern")


def test_a_shrinking_target_is_reached_to_within_a_batch_and_zero_exactly(
    guest: VmwareGuest,
) -> None:
    with serve(guest, BATCHED) as served:
        served.settle(10_000)
        served.aim(5_000)
        served.ask(lambda host: host.actual_pages < 5_512, "the balloon does not shrink")
        calls = len(served.heard)
        wait_until(lambda: _names(served)[calls:].count("target") >= 2, 30, "no further looks")
        assert 5_000 < served.actual_pages < 5_512


def test_pages_that_the_host_refuses_stay_the_guest_s(guest: VmwareGuest) -> None:
    pinned = set(range(0, MEMORY_BYTES >> 12, 1500))
    policy = RefusedPages()
    policy.pin(pinned)
    with serve(guest, BATCHED) as served:
        before = guest.vmmemctl()["errAlloc (4k)"]
        served.do(lambda host: setattr(host, "policy", policy))
        served.aim(20_000)
        # What it was refused it lets go, and its own kernel gives it that again: it may end there.
        served.ask(lambda host: host.actual_pages > 19_900, "the balloon does not grow")
        assert not pinned & served.pfns()
        assert guest.vmmemctl()["errAlloc (4k)"] > before
        served.do(lambda _: policy.allow())
        served.settle(20_000)


def test_a_host_that_says_reset_has_the_driver_begin_anew(guest: VmwareGuest) -> None:
    with serve(guest, BATCHED) as served:
        served.settle(3_000)
        resets, beginning = guest.vmmemctl()["reset"], len(served.heard)
        served.do(VmwareHost.reset_guest)
        served.ask(lambda host: host.is_running, "the driver does not start")
        served.settle(3_000)
        assert guest.vmmemctl()["reset"] == resets + 1
        said = _names(served)[beginning:]
        assert said.count("start") == 1
        assert "batchLock" in said
        assert "batchUnlock" not in said


def test_pages_of_2_mib_go_and_come_whole(guest: VmwareGuest) -> None:
    guest.shell.check(COMPACT)
    with serve(guest, ALL_CAPABILITIES) as served:
        before = guest.vmmemctl()
        served.settle(40 * HUGE_PAGES)
        after = guest.vmmemctl()
        assert after["current"] == 40 * HUGE_PAGES
        assert after["alloc (2M)"] - before["alloc (2M)"] >= 40
        served.ask(lambda host: host.locked.blocks == 40, "there are other pages than of 2 MiB")
        served.settle(0)
        assert "2m-unlock" in _names(served)
        assert "batchLock" not in _names(served)


def test_a_host_of_basic_commands_is_told_of_one_page_at_a_time(guest: VmwareGuest) -> None:
    with serve(guest, Capability.BASIC) as served:
        before = guest.vmmemctl()
        served.settle(100)
        assert guest.vmmemctl()["lock calls"] == before["lock calls"] + 100
        start = next(fact for fact in served.heard if fact.name == "start")
        assert (start.arguments["status"], start.arguments["result"]) == (0, 0)
        assert guest.vmmemctl()["used capabilities"] == Capability.BASIC


def test_a_page_that_moves_is_unlocked_before_its_successor_is_locked(guest: VmwareGuest) -> None:
    with serve(guest, Capability.BASIC) as served:

        def compact(pages: int) -> list[MessageReceived]:
            """What is said of a balloon of this size while the kernel moves what it likes."""
            served.settle(pages)
            before, beginning = served.pfns(), len(served.heard)
            guest.shell.check(COMPACT)
            said = [fact for fact in served.heard[beginning:] if fact.name in {"lock", "unlock"}]
            assert {fact.arguments["arg1"] for fact in said[:1]} <= before
            assert bool(said) == (served.pfns() != before)
            assert served.actual_pages == pages
            return said

        moved = guest.shell.vmstat()["balloon_migrate"]
        # Of which pages a balloon is, and which of them are in the way, is the kernel's choice.
        said = next(filter(None, map(compact, range(100, 600, 100))), [])
        assert said
        assert [fact.name for fact in said] == ["unlock", "lock"] * (len(said) // 2)
        assert guest.shell.vmstat()["balloon_migrate"] - moved == len(said) // 2


def test_a_driver_without_a_host_goes_on_and_the_next_host_has_it_begin_anew(
    guest: VmwareGuest,
) -> None:
    host = VmwareHost(SystemClock(), VmwareHostSettings(BATCHED), ring_doorbell=None)
    with guest.served(host) as server:
        server.ask(lambda host: host.set_target(2_000))
        wait_until(lambda: server.ask(lambda host: host.actual_pages) == 2_000, 60, "no balloon")
    lost = guest.vmmemctl()
    assert lost["current"] == 2_000
    wait_until(lambda: guest.vmmemctl()["target failed"] > lost["target failed"], 60, "it is stuck")
    with serve(guest, BATCHED) as served:
        assert served.actual_pages == 0
        assert guest.vmmemctl()["current"] == 0
        served.settle(1_000)


def test_a_driver_that_is_unloaded_says_so_and_its_successor_begins(guest: VmwareGuest) -> None:
    host = VmwareHost(SystemClock(), VmwareHostSettings(BATCHED), ring_doorbell=None)
    with guest.served(host) as server:
        served = Served(guest, server)
        served.ask(lambda host: host.is_running, "the driver does not start")
        served.settle(2_000)
        beginning = len(served.heard)
        guest.shell.check("rmmod vmw_balloon")
        said = served.heard[beginning:]
        assert [fact.arguments["arg1"] for fact in said if fact.name == "start"] == [0]
        assert "batchUnlock" not in {fact.name for fact in said}
        assert served.actual_pages == 0
        assert not server.ask(lambda host: host.is_running)
    guest.shell.check("insmod /vmw_balloon.ko")
    with serve(guest, BATCHED) as served:
        served.settle(2_000)


def _names(served: Served) -> list[str]:
    return [fact.name for fact in served.heard]
