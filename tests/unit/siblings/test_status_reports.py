"""What a guest of Hyper-V's or VMware's tells of its memory, as statistics."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Thread

import pytest
from tests.support.clock import FakeClock
from tests.support.wait import PATIENCE_S, wait_until

from ballonet.balloon.facts import GuestChanged, StatusReported
from ballonet.balloon.stats_reading import StatsDiagnosis
from ballonet.control.status import StatusReports
from ballonet.errors import GuestError, SettingsError, UsageError
from ballonet.hyperv.host import HypervHost
from ballonet.hyperv.settings import HypervHostSettings
from ballonet.runtime.event_loop import EventLoop
from ballonet.siblings.status_reports import ReportedStats

REPORT = StatusReported(committed_bytes=3 << 20, available_bytes=5 << 20)


class Rig:
    """Statistics of a host whose guest is played by the test."""

    def __init__(self, *, wants_reports: bool | None) -> None:
        self.clock = FakeClock()
        self.host = HypervHost(self.clock, HypervHostSettings(), lambda _: True)
        self.loop = EventLoop()
        self.stats = ReportedStats(self.host, self.loop, self.clock, wants_reports=wants_reports)

    def tell(self, *facts: StatusReported | GuestChanged) -> None:
        for fact in facts:
            self.host.given.observers.tell(fact)


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig(wants_reports=True)
    thread = Thread(target=made.loop.run)
    thread.start()
    yield made
    made.loop.stop()
    thread.join()
    made.loop.close()


def test_a_report_is_a_sample_with_its_time(rig: Rig) -> None:
    assert rig.stats.reports == StatusReports(are_enabled=True)
    rig.clock.advance(7)
    rig.tell(REPORT)
    assert rig.stats.reading is not None
    assert rig.stats.reading.sample.values == {"avail": 5 << 20}
    assert rig.stats.reading.received_ns == rig.clock.now_ns()
    assert rig.stats.reports == StatusReports(
        are_enabled=True, committed_bytes=3 << 20, available_bytes=5 << 20
    )


def test_the_report_of_a_guest_goes_with_it(rig: Rig) -> None:
    rig.tell(REPORT, GuestChanged())
    assert rig.stats.reading is None
    assert rig.stats.reports == StatusReports(are_enabled=True)


def test_whoever_waits_gets_the_next_report(rig: Rig) -> None:
    readings = []
    reader = Thread(target=lambda: readings.append(rig.stats.read(PATIENCE_S)))
    reader.start()
    wait_until(
        lambda: rig.loop.ask(lambda: bool(rig.stats._waiters), PATIENCE_S), PATIENCE_S, "no reader"
    )
    rig.loop.ask(lambda: rig.tell(REPORT), PATIENCE_S)
    reader.join()
    assert readings == [rig.stats.reading]


def test_whoever_waits_in_vain_is_told_why(rig: Rig) -> None:
    with pytest.raises(GuestError, match="no driver uses the device"):
        rig.stats.read(0.001)
    assert rig.stats.diagnosis() is StatsDiagnosis.NO_DRIVER


def test_an_interval_changes_nothing_but_must_be_one(rig: Rig) -> None:
    rig.stats.set_poll_interval(5).result(PATIENCE_S)
    assert rig.stats.poll_interval_s == 1
    with pytest.raises(SettingsError):
        rig.stats.set_poll_interval(-1)


@pytest.mark.parametrize(
    ("wants_reports", "why"),
    [(None, StatsDiagnosis.NOT_IN_PROTOCOL), (False, StatsDiagnosis.NOT_WANTED)],
)
def test_where_no_reports_come_everything_says_why(
    wants_reports: bool | None, why: StatsDiagnosis
) -> None:
    rig = Rig(wants_reports=wants_reports)
    assert rig.stats.diagnosis() is why
    assert rig.stats.poll_interval_s == 0
    with pytest.raises(UsageError, match=why.value):
        rig.stats.set_poll_interval(1)
    with pytest.raises(GuestError, match=why.value):
        rig.stats.read(1.0)
    assert rig.stats.reports == (
        None if wants_reports is None else StatusReports(are_enabled=False)
    )
    rig.loop.close()
