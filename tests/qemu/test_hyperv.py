"""Linux's own hv_balloon with our host: the driver of Debian's kernel, unchanged, in QEMU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest
from tests.support.wait import PATIENCE_S, holds, wait_until

from ballonet.balloon.facts import Fact, MessageReceived
from ballonet.guests.hyperv_guest import HypervGuest
from ballonet.hyperv.floor import balloon_floor
from ballonet.hyperv.host import HypervHost
from ballonet.hyperv.host_state import HostState
from ballonet.hyperv.layouts import Version, format_version
from ballonet.hyperv.settings import HypervHostSettings
from ballonet.siblings.vmbus_serial import VmbusSerial
from ballonet.units import bytes_to_pages, pages_to_bytes

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("test_hyperv")]

MIB = 1 << 20
BOOTED_BYTES = 512 * MIB
BLOCK_BYTES = 128 * MIB  # what Linux hot-adds at a time
PAGES = 60_000
T = TypeVar("T")


class Served:
    """A guest's host, on its loop's thread, and what both have said."""

    def __init__(self, port: VmbusSerial) -> None:
        self.ask = port.ask
        self.heard: list[MessageReceived] = []
        port.host.given.observers.add(self._observe, details=True)

    def figure(self, name: str) -> object:
        return self.ask(lambda host: host.describe()[name])

    def messages(self, name: str) -> list[MessageReceived]:
        return [one for one in self.heard if one.name == name]

    def wait_for(self, true: Callable[[HypervHost], bool], what: str) -> None:
        wait_until(lambda: self.ask(true), PATIENCE_S, what)

    def resize(self, pages: int) -> None:
        """Ask for so many pages; wait until both are done, and the host has dropped what it has."""
        self.ask(lambda host: host.set_target(pages))
        self.wait_for(lambda host: host.actual_pages == pages, f"{pages} pages are not reached")
        self.wait_for(lambda host: host.state is HostState.IDLE, "the guest does not answer")
        self.wait_for(lambda host: host.given.deadline_ns is None, "nothing is dropped")

    def _observe(self, fact: Fact) -> None:
        if isinstance(fact, MessageReceived):
            self.heard.append(fact)


@contextmanager
def visited(
    guest: HypervGuest, settings: HypervHostSettings | None = None, *, until_running: bool = True
) -> Iterator[Served]:
    """A host for the block; both begin anew."""
    settings = settings or HypervHostSettings(post_init_wait_ns=0, status_report=True)
    with guest.served(settings) as port:
        served = Served(port)
        if until_running:
            served.wait_for(lambda host: host.is_running, "no driver says what it can do")
        yield served


@pytest.fixture(scope="module")
def guest() -> Iterator[HypervGuest]:
    with HypervGuest(BOOTED_BYTES) as running:
        yield running


def test_the_driver_comes_to_terms_with_our_host(
    guest: HypervGuest, record_property: Callable[[str, object], None]
) -> None:
    record_property("tests/qemu: hv_balloon of Linux", guest.linux.release)
    with visited(guest) as served:
        terms = served.ask(lambda host: host.capabilities)
        assert terms == ("version 2.0", "balloon", "hot add", "alignment 128 MiB")
        assert guest.hv_balloon()["capabilities"] == "enabled hot_add"
        assert served.ask(lambda host: host.broken) is None


@pytest.mark.parametrize("newest", list(Version), ids=format_version)
def test_the_driver_goes_down_a_version_each_time_it_is_refused(
    guest: HypervGuest, newest: Version
) -> None:
    with visited(guest, HypervHostSettings(version_max=newest, post_init_wait_ns=0)) as served:
        asked = [
            (one.arguments["version"], one.arguments["is_last"])
            for one in served.messages("VersionRequest")
        ]
        ladder = [(Version.V2_0, False), (Version.V1_0, False), (Version.V0_3, True)]
        assert asked == [step for step in ladder if step[0] >= newest]
        assert served.ask(lambda host: host.capabilities)[0] == f"version {format_version(newest)}"
        served.resize(1000)
        served.resize(0)


def test_a_driver_whose_every_version_is_refused_gives_up(guest: HypervGuest) -> None:
    none = HypervHostSettings(version_min=Version.V2_0 + 1, version_max=Version.V2_0 + 1)
    with visited(guest, none, until_running=False) as served:
        wait_until(lambda: len(served.messages("VersionRequest")) == 3, PATIENCE_S, "no request")
        bound = "ls /sys/bus/vmbus_stand_in/drivers/hv_balloon"
        wait_until(
            lambda: "dynamic_memory" not in guest.shell.check(bound), PATIENCE_S, "it is bound"
        )
        assert not served.ask(lambda host: host.is_running)


def test_memory_goes_to_the_host_and_back_and_no_byte_is_lost(guest: HypervGuest) -> None:
    guest.shell.check("dd if=/dev/urandom of=/tmp/pattern bs=1M count=16")
    before = guest.shell.check("sha1sum /tmp/pattern")
    with visited(guest) as served:
        # Not all that is free was used before; the kernel may choose the rest for the balloon.
        guest.shell.use_memory(90)
        held = guest.linux.memory.held_bytes()
        full = guest.shell.meminfo()
        served.resize(PAGES)
        balloon_bytes = pages_to_bytes(PAGES)
        fell = held - guest.linux.memory.held_bytes()
        assert balloon_bytes * 0.75 < fell <= balloon_bytes + BLOCK_BYTES // 8
        ballooned = guest.shell.meminfo()
        assert full["MemTotal"] - ballooned["MemTotal"] == balloon_bytes
        assert abs(full["MemFree"] - ballooned["MemFree"] - balloon_bytes) < balloon_bytes // 4
        assert guest.hv_balloon()["pages_ballooned"] == str(PAGES)
        assert guest.shell.check("sha1sum /tmp/pattern") == before
        low = guest.linux.memory.held_bytes()
        served.resize(0)
        assert guest.shell.meminfo()["MemTotal"] == full["MemTotal"]
        guest.shell.use_memory(90)
        assert guest.linux.memory.held_bytes() - low > balloon_bytes * 0.75
        assert guest.shell.check("sha1sum /tmp/pattern") == before
    guest.shell.check("rm /tmp/pattern")


def test_the_driver_gives_whole_blocks_as_long_as_it_can(guest: HypervGuest) -> None:
    with visited(guest) as served:
        served.resize(PAGES)
        answers = [one.arguments for one in served.messages("BalloonResponse")]
        assert sum(int(str(one["pages"])) for one in answers) == PAGES
        # Of 2 MiB each, and at last single pages; with 510 of them a message is full.
        assert sum(int(str(one["ranges"])) for one in answers) == PAGES // 512 + PAGES % 512
        served.resize(0)


def test_more_ranges_than_a_message_has_room_for_come_in_two(guest: HypervGuest) -> None:
    with visited(guest) as served:
        served.resize(511)
        answers = [one.arguments for one in served.messages("BalloonResponse")]
        assert [(one["ranges"], one["more"]) for one in answers] == [(510, True), (1, False)]
        served.resize(0)
        wait_until(
            lambda: len(served.messages("UnballoonResponse")) == 1, PATIENCE_S, "it takes nothing"
        )


def test_status_reports_tell_what_the_guest_itself_counts(guest: HypervGuest) -> None:
    with visited(guest) as served:
        first = wait_until(
            lambda: served.ask(lambda host: host.status_report), PATIENCE_S, "no status report"
        )
        served.wait_for(
            lambda host: (
                host.status_report is not None
                and host.status_report.received_ns > first.received_ns
            ),
            "no second status report",
        )
        available = guest.shell.meminfo()["MemAvailable"]
        assert abs(first.available_bytes - available) < available // 8
        assert 0 < first.committed_bytes < BOOTED_BYTES
        served.resize(PAGES)
        served.wait_for(
            lambda host: (
                host.status_report is not None
                and host.status_report.available_bytes
                < first.available_bytes - pages_to_bytes(PAGES) // 2
            ),
            "the reports do not notice the balloon",
        )
        served.resize(0)


def test_a_guest_that_is_asked_for_everything_keeps_its_floor(guest: HypervGuest) -> None:
    with visited(guest) as served:
        served.ask(lambda host: host.set_target(bytes_to_pages(BOOTED_BYTES)))
        # An answer without a range is how it says that there is no more.
        wait_until(
            lambda: any(one.arguments["ranges"] == 0 for one in served.messages("BalloonResponse")),
            PATIENCE_S,
            "it does not say that it has no more",
        )
        now = guest.shell.meminfo()
        # As our own driver has it.
        floor = pages_to_bytes(balloon_floor(bytes_to_pages(now["MemTotal"])))
        assert 0.9 * floor < now["MemAvailable"] < 1.5 * floor
        assert served.ask(lambda host: host.broken) is None
        served.resize(0)


def test_a_host_that_goes_is_followed_by_another_that_begins_anew(guest: HypervGuest) -> None:
    with visited(guest) as served:
        served.resize(1000)  # the driver counts them for ever: nobody else knows which they were
    with visited(guest) as served:
        assert guest.hv_balloon()["pages_ballooned"] == "1000"
        assert served.ask(lambda host: host.actual_pages) == 0
        served.resize(1000)
        served.resize(0)


def test_memory_is_hot_added_until_the_machine_has_no_more() -> None:
    spare_bytes = 2 * BLOCK_BYTES
    settings = HypervHostSettings(
        post_init_wait_ns=0, extra_gpa=BOOTED_BYTES, extra_bytes=spare_bytes
    )
    with (
        HypervGuest(BOOTED_BYTES, spare_bytes=spare_bytes) as guest,
        visited(guest, settings) as served,
    ):
        before = guest.shell.meminfo()["MemTotal"]
        for absent_bytes in (BLOCK_BYTES, 0):
            served.resize(bytes_to_pages(absent_bytes))
            added_bytes = spare_bytes - absent_bytes
            assert guest.shell.meminfo()["MemTotal"] == before + added_bytes
            assert served.figure("hot-added-pages") == bytes_to_pages(added_bytes)
        # What was added can be used, and given, like all other memory.
        guest.shell.check("mount -o remount,size=95% /tmp")
        guest.shell.use_memory(75)
        held = guest.linux.memory.held_bytes()
        pages = 2 * PAGES  # more than the guest had free before
        served.resize(pages)
        assert held - guest.linux.memory.held_bytes() > pages_to_bytes(pages) * 0.75
        served.resize(0)
        assert guest.shell.meminfo()["MemTotal"] == before + spare_bytes


def test_memory_that_the_guest_has_already_is_not_added(guest: HypervGuest) -> None:
    settings = HypervHostSettings(
        post_init_wait_ns=0, extra_gpa=BLOCK_BYTES, extra_bytes=BLOCK_BYTES
    )
    with visited(guest, settings) as served:
        before = guest.shell.meminfo()["MemTotal"]
        served.ask(lambda host: host.set_target(0))
        answer = wait_until(lambda: served.messages("HotAddResponse"), PATIENCE_S, "no answer")
        assert [(one.arguments["pages"], one.arguments["result"]) for one in answer] == [(0, 1)]
        served.wait_for(lambda host: host.state is HostState.IDLE, "the host waits for more")
        assert served.figure("hot-added-pages") == 0
        assert guest.shell.meminfo()["MemTotal"] == before


def test_a_guest_that_may_hibernate_answers_nothing_and_its_host_copes() -> None:
    with HypervGuest(BOOTED_BYTES, can_hibernate=True) as guest:
        with visited(guest) as served:
            served.ask(lambda host: host.set_target(PAGES))
            wait_until(
                lambda: "Ignore balloon-up request" in guest.shell.check("dmesg"),
                PATIENCE_S,
                "the driver does not ignore it",
            )
            assert holds(lambda: served.ask(lambda host: host.actual_pages) == 0, 0.5)
            served.ask(lambda host: host.set_target(0))
            assert served.ask(lambda host: (host.is_running, host.broken)) == (True, None)
        with visited(guest) as served:
            assert served.ask(lambda host: host.state) is HostState.IDLE
