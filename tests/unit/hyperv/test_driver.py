"""The driver before an honest host: the ladder, what it gives, what it keeps, what it says."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from tests.support.hyperv_guest import (
    HOT_ADD_RESPONSE,
    STATUS_REPORT,
    UNBALLOON_RESPONSE,
    V0_3,
    V1_0,
    V2_0,
    pages_of,
)
from tests.support.hyperv_host import (
    DriverRig,
    balloon_request,
    capabilities_response,
    hot_add_request,
    info,
    unballoon_request,
    version_response,
)

from ballonet.hyperv.driver import DriverState
from ballonet.hyperv.floor import balloon_floor
from ballonet.hyperv.settings import HypervDriverSettings
from ballonet.kernel.frames import Use
from ballonet.kernel.kernel import KernelSettings

# Handshake.


def test_it_goes_down_the_ladder() -> None:
    rig = DriverRig()
    rig.driver.start()
    rig.run()
    assert rig.versions() == [(V2_0, False)]
    rig.host_says(version_response(accepted=False))
    assert rig.versions() == [(V1_0, False)]
    rig.host_says(version_response(accepted=False))
    assert rig.versions() == [(V0_3, True)]
    rig.host_says(version_response(accepted=True))
    assert rig.capabilities() == 0b11 | 7 << 2
    rig.host_says(capabilities_response())
    assert rig.state() is DriverState.INITIALIZED
    assert rig.driver.describe()["version"] == "0.3"


def test_a_host_that_refuses_every_version_is_left_alone() -> None:
    rig = DriverRig()
    rig.driver.start()
    rig.host_says(*[version_response(accepted=False)])
    rig.host_says(*[version_response(accepted=False)])
    rig.host_says(*[version_response(accepted=False)])
    assert rig.state() is DriverState.INIT_ERROR
    rig.take()
    rig.host_says(balloon_request(100))
    rig.pass_time(100)
    assert rig.take() == []


def test_a_host_that_refuses_the_capabilities_is_left_alone() -> None:
    rig = DriverRig()
    rig.driver.start()
    rig.host_says(version_response(accepted=True))
    rig.host_says(capabilities_response(accepted=False))
    assert rig.state() is DriverState.INIT_ERROR


@pytest.mark.parametrize("answers", [0, 1])
def test_a_silent_host_has_5_seconds_for_each_answer(answers: int) -> None:
    rig = DriverRig()
    rig.driver.start()
    rig.host_says(*[version_response(accepted=True)] * answers)
    rig.pass_time(4.9)
    assert rig.state() is DriverState.INITIALIZING
    rig.pass_time(0.2)
    assert rig.state() is DriverState.INIT_ERROR
    rig.host_says(version_response(accepted=True), capabilities_response())
    assert rig.state() is DriverState.INIT_ERROR


def test_a_ring_that_stays_full_counts_as_silence() -> None:
    rig = DriverRig()
    rig.room = 0
    rig.driver.start()
    rig.pass_time(4.9)
    assert rig.state() is DriverState.INITIALIZING
    rig.pass_time(0.2)
    assert rig.state() is DriverState.INIT_ERROR


def test_a_request_right_behind_the_answer_is_not_lost() -> None:
    rig = DriverRig()
    rig.driver.start()
    rig.host_says(version_response(accepted=True))
    rig.host_says(capabilities_response(), info(1 << 20), balloon_request(512))
    rig.run()
    assert rig.driver.actual_pages == 512
    assert rig.driver.describe()["max-pages"] == 1 << 20


def test_each_message_has_the_next_number() -> None:
    rig = DriverRig()
    rig.driver.start()
    rig.host_says(version_response(accepted=True))
    rig.host_says(capabilities_response(), balloon_request(512))
    assert [struct.unpack_from("<I", raw, 4)[0] for raw in rig.sent] == [1, 2, 3]


# Balloon.


def test_blocks_of_2_mib_come_first_and_single_pages_make_up_the_rest() -> None:
    rig = DriverRig().start()
    rig.host_says(balloon_request(2 * 512 + 3))
    (blocks, more), (rest, last) = rig.responses()
    assert [pages for _, pages in blocks] == [512, 512]
    assert all(first % 512 == 0 for first, _ in blocks)
    assert [pages for _, pages in rest] == [1, 1, 1]
    assert (more, last) == (True, False)
    assert set(rig.balloon_frames().tolist()) == pages_of(blocks + rest)
    assert rig.driver.actual_pages == rig.driver.target_pages == 1027
    assert rig.kernel.hidden_frames == 1027


def test_511_single_pages_are_two_messages() -> None:
    rig = DriverRig().start()
    rig.host_says(balloon_request(511))
    (first, more), (second, last) = rig.responses()
    assert (len(first), len(second)) == (510, 1)
    assert (more, last) == (True, False)
    assert rig.driver.actual_pages == 511


def test_memory_in_the_balloon_is_not_counted_as_the_guest_s() -> None:
    rig = DriverRig().start()
    total = rig.kernel.meminfo()["MemTotal"]
    rig.host_says(balloon_request(1000))
    assert rig.kernel.meminfo()["MemTotal"] == total - 1000 * 4096


def test_the_floor_holds_whatever_is_asked_for() -> None:
    rig = DriverRig().start()
    floor = balloon_floor(rig.kernel.managed_frames)
    rig.host_says(balloon_request(2**32 - 1))
    given = sum(pages for ranges, _ in rig.responses() for _, pages in ranges)
    assert given == rig.driver.actual_pages > 0
    assert floor <= rig.kernel.available_frames < floor + 64
    assert rig.driver.describe()["clipped-requests"] == 1


def test_a_guest_at_its_floor_gives_zero_ranges() -> None:
    """The floor sinks with the guest's memory, so that it is reached in steps."""
    rig = DriverRig().start()
    for _ in range(50):
        rig.host_says(balloon_request(1 << 20))
    assert rig.responses()[-1] == ([], False)
    before = rig.driver.actual_pages
    rig.host_says(balloon_request(1 << 20))
    assert rig.responses() == [([], False)]
    assert rig.driver.actual_pages == before > 0


def test_a_request_of_nothing_is_answered_with_nothing() -> None:
    rig = DriverRig().start()
    rig.host_says(balloon_request(0))
    assert rig.responses() == [([], False)]


def test_a_full_ring_is_tried_again_after_20_ms_with_a_new_number() -> None:
    rig = DriverRig().start()
    rig.room = 0
    rig.host_says(balloon_request(512))
    assert rig.driver.actual_pages == 0
    assert not rig.balloon_frames().size
    assert rig.kernel.table.count(Use.HELD) == 512
    rig.pass_time(0.05)
    assert rig.driver.describe()["full-rings"] == 3
    rig.room = 1
    rig.pass_time(0.02)
    assert struct.unpack_from("<I", rig.sent[0], 4) == (2 + 4,)
    assert rig.driver.actual_pages == 512


def test_page_poison_survives_the_balloon() -> None:
    rig = DriverRig(kernel=KernelSettings(marks=False, poison=0xAA)).start()
    rig.host_says(balloon_request(1024))
    frames = rig.balloon_frames()
    rig.kernel.memory.fill(frames, 0)  # as a host does that drops them
    rig.host_says(unballoon_request([(int(frame), 1) for frame in frames[:500]]))
    assert rig.kernel.memory.filled(frames[:500], 0xAAAA_AAAA_AAAA_AAAA)


# Unballoon.


def test_pages_are_free_at_once_and_only_the_last_message_is_answered() -> None:
    rig = DriverRig().start()
    rig.host_says(balloon_request(1024))
    (one, _), (other, _) = rig.responses()[0][0]
    rig.host_says(unballoon_request([(one, 512)], more=True))
    assert rig.take() == []
    assert rig.driver.actual_pages == 512
    assert rig.kernel.hidden_frames == 512
    rig.host_says(unballoon_request([(other, 512)]))
    assert rig.take() == [(UNBALLOON_RESPONSE, b"")]
    assert rig.driver.actual_pages == 0
    assert rig.kernel.free_frames == rig.free_at_boot


def test_an_answer_waits_for_room_in_the_ring() -> None:
    rig = DriverRig().start()
    rig.host_says(balloon_request(512))
    rig.sent.clear()
    rig.room = 0
    rig.host_says(unballoon_request([(0, 1 << 20)]))
    rig.room = 1
    rig.pass_time(0.02)
    assert rig.take() == [(UNBALLOON_RESPONSE, b"")]


# Status.


def reports(rig: DriverRig) -> list[tuple[int, int]]:
    """Pages available and committed, as reported."""
    return [
        (int(available), int(committed))
        for kind, body in rig.take()
        if kind == STATUS_REPORT
        for available, committed, *rest in (struct.unpack("<4Q2I", body),)
        if rest == [0, 0, 0, 0]
    ]


def test_the_first_45_reports_are_not_sent() -> None:
    rig = DriverRig(HypervDriverSettings()).start()
    rig.pass_time(45.5)
    assert reports(rig) == []
    rig.pass_time(5)
    assert len(reports(rig)) == 5


def test_a_report_says_what_the_guest_has_and_needs() -> None:
    rig = DriverRig(HypervDriverSettings(pressure_report_delay=0)).start()
    process = rig.kernel.start_process("one")
    rig.kernel.add_area("memory", 300, process)
    rig.kernel.add_area("file", 900)
    rig.pass_time(1)
    floor = balloon_floor(rig.kernel.managed_frames)
    assert reports(rig) == [(rig.kernel.available_frames, 300 + floor)]
    rig.host_says(balloon_request(1000))
    rig.pass_time(1)
    floor = balloon_floor(rig.kernel.managed_frames)
    assert reports(rig) == [(rig.kernel.available_frames, 300 + 1000 + floor)]
    assert rig.driver.describe()["status-reports"] == 2


def test_reports_are_a_second_apart_however_often_pages_come_back() -> None:
    rig = DriverRig(HypervDriverSettings(pressure_report_delay=0)).start()
    for _ in range(51):
        rig.host_says(unballoon_request([(0, 1)], more=True))
        rig.pass_time(0.1)
    assert len(reports(rig)) == 5


def test_a_report_that_finds_no_room_is_lost() -> None:
    rig = DriverRig(HypervDriverSettings(pressure_report_delay=0)).start()
    rig.room = 0
    rig.pass_time(1.5)
    rig.room = 10
    rig.pass_time(1)
    assert len(reports(rig)) == 1


# Around it.


def test_hot_add_is_refused_for_good() -> None:
    rig = DriverRig().start()
    rig.host_says(hot_add_request((1 << 20, 512), (1 << 20, 512)))
    rig.host_says(hot_add_request((1 << 20, 512)))
    assert rig.take() == [(HOT_ADD_RESPONSE, struct.pack("<II", 0, 1))] * 2


def test_a_guest_that_may_hibernate_says_nothing() -> None:
    rig = DriverRig(HypervDriverSettings(1 << 30, hibernation=True)).start()
    rig.host_says(balloon_request(512), unballoon_request([(0, 1)]))
    rig.pass_time(10)
    assert rig.take() == []
    assert rig.driver.actual_pages == 0


def test_a_guest_of_bigger_pages_has_no_balloon() -> None:
    rig = DriverRig(page_bytes=16384)
    rig.driver.start()
    rig.host_says(version_response(accepted=True))
    rig.take()
    rig.host_says(capabilities_response())
    rig.host_says(balloon_request(512), unballoon_request([(0, 1 << 20)]))
    assert rig.take() == []
    assert rig.driver.actual_pages == 0


def test_a_guest_of_bigger_pages_says_so() -> None:
    rig = DriverRig(page_bytes=16384)
    rig.driver.start()
    rig.run()
    rig.take()
    rig.host_says(version_response(accepted=True))
    assert rig.capabilities() == 0b10 | 7 << 2


def stop(rig: DriverRig) -> None:
    task = rig.scheduler.spawn("stop", rig.driver.stop())
    rig.pass_time(0.1)
    assert task.done.is_set


def test_pages_stay_in_the_balloon_of_a_driver_that_stops() -> None:
    rig = DriverRig().start()
    rig.host_says(balloon_request(512))
    stop(rig)
    rig.sent.clear()
    rig.host_says(unballoon_request([(0, 1 << 20)]), balloon_request(512))
    rig.pass_time(10)
    assert rig.take() == []
    assert rig.balloon_frames().size == 512


@pytest.mark.parametrize("pages", [512, 5])
def test_pages_that_were_never_sent_are_free_when_it_stops(pages: int) -> None:
    rig = DriverRig().start()
    rig.room = 0
    rig.host_says(balloon_request(pages))
    stop(rig)
    assert rig.kernel.free_frames == rig.free_at_boot
    assert rig.kernel.hidden_frames == 0


def test_it_can_stop_in_the_middle_of_the_handshake() -> None:
    rig = DriverRig()
    rig.driver.start()
    rig.run()
    stop(rig)
    rig.host_says(version_response(accepted=True))
    assert rig.state() is DriverState.INIT_ERROR


def test_it_comes_to_rest_with_its_kernel() -> None:
    rig = DriverRig(HypervDriverSettings(pressure_report_delay=0)).start()
    rig.scheduler.freeze()
    rig.host_says(balloon_request(512))
    rig.pass_time(5)
    assert rig.scheduler.is_frozen
    assert rig.driver.actual_pages == 0
    rig.scheduler.thaw()
    rig.run()
    assert rig.driver.actual_pages == 512
    assert np.array_equal(rig.balloon_frames(), np.sort(rig.balloon_frames()))
