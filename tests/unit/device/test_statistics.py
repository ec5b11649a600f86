"""The poll timer against a clock that the test moves, and what is known about the answers."""

import struct

import pytest
from tests.support.clock import FakeClock

from ballonet.balloon.stats_reading import StatsDiagnosis
from ballonet.device.statistics import Statistics
from ballonet.errors import SettingsError

RAW = struct.pack("<HQ", 4, 1234)
OTHER = struct.pack("<HQ", 4, 999)
UNSET = struct.pack("<HQHQ", 4, 2**64 - 1, 77, 2**64 - 1)


class Driver:
    """A driver that answers when it is told to, and the device's half beside it."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.device = Statistics(self.clock)
        self.device.resume()
        self.asked = 0

    def answers(self, raw: bytes = RAW, *, legacy: bool = False, big_endian: bool = False) -> None:
        self.device.receive(0, raw, legacy=legacy, big_endian=big_endian)

    def passes(self, seconds: float) -> int:
        """Questions asked while time goes by, one look at the timer each tenth of a second."""
        before = self.asked
        for _ in range(round(seconds * 10)):
            self.clock.advance(0.1)
            self.looks()
        return self.asked - before

    def looks(self) -> None:
        if self.device.expired() and self.device.ask() is not None:
            self.asked += 1


@pytest.fixture
def driver() -> Driver:
    made = Driver()
    made.answers()
    return made


def test_the_first_poll_is_at_once_and_the_next_an_interval_after_the_answer(
    driver: Driver,
) -> None:
    driver.device.set_poll_interval(2)
    driver.looks()
    assert driver.asked == 1
    assert driver.passes(10) == 0  # no answer, no further question
    driver.answers()
    assert driver.passes(1.9) == 0
    assert driver.passes(0.2) == 1


def test_without_an_interval_nothing_is_asked(driver: Driver) -> None:
    assert driver.device.deadline_ns is None
    driver.device.set_poll_interval(0)
    assert driver.passes(5) == 0


def test_a_changed_interval_counts_from_the_change_and_the_same_one_changes_nothing(
    driver: Driver,
) -> None:
    driver.device.set_poll_interval(10)
    driver.looks()
    driver.answers()
    driver.passes(5)
    driver.device.set_poll_interval(10)
    assert driver.passes(5.1) == 1
    driver.answers()
    driver.passes(5)
    driver.device.set_poll_interval(3)
    assert driver.passes(2.9) == 0
    assert driver.passes(0.2) == 1


def test_zero_ends_polling_and_keeps_the_last_sample(driver: Driver) -> None:
    driver.device.set_poll_interval(1)
    driver.device.set_poll_interval(0)
    assert driver.passes(5) == 0
    assert driver.device.reading is not None


@pytest.mark.parametrize("seconds", [-1, 2**32, 2**64])
def test_an_interval_out_of_range_is_refused_and_changes_nothing(seconds: int) -> None:
    device = Statistics(FakeClock())
    with pytest.raises(SettingsError, match="4294967295"):
        device.set_poll_interval(seconds)
    assert device.poll_interval_s == 0


def test_the_longest_interval_does_not_overflow(driver: Driver) -> None:
    driver.device.set_poll_interval(1)
    driver.device.set_poll_interval(2**32 - 1)
    driver.clock.advance(2**32 - 2)
    driver.looks()
    assert driver.asked == 0
    driver.clock.advance(2)
    driver.looks()
    assert driver.asked == 1


def test_time_stands_still_while_the_device_is_suspended(driver: Driver) -> None:
    driver.device.set_poll_interval(5)
    driver.looks()
    driver.answers()
    driver.passes(3)
    assert driver.device.un_pop()
    driver.device.suspend()
    assert driver.device.deadline_ns is None
    assert driver.passes(100) == 0
    driver.device.resume()
    driver.device.receive(0, RAW, legacy=False, big_endian=False)
    assert driver.passes(4.9) == 0  # the buffer that came again starts the interval anew
    assert driver.passes(0.2) == 1


def test_what_was_left_of_the_interval_is_left_after_the_suspension() -> None:
    driver = Driver()
    driver.device.set_poll_interval(4)
    driver.device.set_poll_interval(5)
    driver.passes(3)
    driver.device.suspend()
    driver.passes(50)
    driver.device.resume()
    driver.device.held = 0
    assert driver.passes(1.9) == 0
    assert driver.passes(0.2) == 1


def test_polling_goes_on_after_a_stop_that_lost_the_question(driver: Driver) -> None:
    driver.device.set_poll_interval(1)
    driver.looks()
    driver.device.suspend()
    driver.device.resume()
    driver.answers(OTHER)
    assert driver.passes(1.1) == 1


def test_an_interval_set_while_suspended_polls_at_the_start() -> None:
    driver = Driver()
    driver.device.suspend()
    driver.device.set_poll_interval(60)
    assert driver.device.deadline_ns is None
    driver.device.resume()
    driver.device.held = 0
    driver.looks()
    assert driver.asked == 1


def test_a_driver_without_a_buffer_is_asked_when_it_has_one(driver: Driver) -> None:
    driver.device.take_held()
    driver.device.set_poll_interval(1)
    assert driver.passes(5) == 0
    driver.answers()
    assert driver.passes(1.1) == 1


def test_the_same_buffer_popped_again_is_no_newer_sample(driver: Driver) -> None:
    before = driver.device.reading
    driver.device.un_pop()
    driver.passes(3)
    driver.answers()
    assert driver.device.reading is before
    assert driver.device.held == 0
    driver.device.un_pop()
    driver.answers(OTHER)  # another driver, in the same place
    assert driver.device.reading is not before


def test_a_sample_says_when_it_came_and_whether_it_was_the_first(driver: Driver) -> None:
    first = driver.device.reading
    assert first is not None
    assert first.is_first
    assert (first.received_ns, first.received_wall_s) == (driver.clock.ns, driver.clock.calendar_s)
    driver.passes(2)
    driver.answers()
    second = driver.device.reading
    assert second is not None
    assert not second.is_first
    assert second.received_ns - first.received_ns == 2_000_000_000


def test_the_first_buffer_of_a_legacy_driver_is_held_but_not_believed() -> None:
    driver = Driver()
    driver.answers(legacy=True)
    assert (driver.device.held, driver.device.reading) == (0, None)
    driver.answers(OTHER, legacy=True)
    assert driver.device.reading is not None


def test_a_big_endian_legacy_driver_is_understood() -> None:
    driver = Driver()
    driver.answers(struct.pack(">HQ", 4, 1234), big_endian=True)
    assert driver.device.reading is not None
    assert driver.device.reading.sample.values == {"memfree": 1234}


def test_every_reason_for_having_no_statistics_has_its_own_words(driver: Driver) -> None:
    device = driver.device
    assert device.diagnosis(negotiated=True) is StatsDiagnosis.ANSWERED
    assert device.diagnosis(negotiated=False) is StatsDiagnosis.NOT_NEGOTIATED
    device.ask()
    assert device.diagnosis(negotiated=True) is StatsDiagnosis.NO_ANSWER
    driver.answers(UNSET)
    assert device.diagnosis(negotiated=True) is StatsDiagnosis.ALL_UNSET
    for no_whole_entry in (b"", RAW[:8]):
        driver.answers(no_whole_entry)
        assert device.diagnosis(negotiated=True) is StatsDiagnosis.NO_VALUES
    device.forget_guest()
    assert device.diagnosis(negotiated=True) is StatsDiagnosis.NO_BUFFER
