"""A driver's state goes with its guest; one that cannot be right is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.support.moving import come_to_rest, empty_copy, move, saved
from tests.support.pair import MIB, Pair, no_fence
from tests.support.states import Change, forged, parts

from ballonet.device.balloon import BalloonSettings
from ballonet.driver import state as driver_state
from ballonet.driver.balloon_driver import BalloonDriver
from ballonet.driver.settings import DriverSettings
from ballonet.errors import GuestError, SettingsError, StreamError, UsageError
from ballonet.kernel import state as kernel_state
from ballonet.kernel.frames import Use
from ballonet.virtio.features import BALLOON_FEATURES, RING_FEATURES, Feature

SPLIT = BALLOON_FEATURES | RING_FEATURES & ~Feature.RING_PACKED
PACKED = SPLIT | Feature.RING_PACKED


def guest(offered: Feature, *, driver: DriverSettings | None = None) -> Pair:
    """With a balloon, hinted blocks and a statistics buffer at the device; it rests."""
    pair = Pair(48 * MIB, BalloonSettings(offered), driver or DriverSettings())
    pair.driver.start()
    pair.set_target(3000)
    pair.run(3)
    pair.device.begin_hint_round()
    pair.run(1)
    assert come_to_rest(pair)
    assert pair.driver.hints is not None
    assert pair.driver.hints.blocks
    return pair


@pytest.mark.parametrize("offered", [SPLIT, PACKED])
def test_balloon_hints_and_rings_go_on_there(offered: Feature) -> None:
    here = guest(offered)
    blocks = list(here.driver.hints.blocks) if here.driver.hints else []
    there = move(here)
    assert there.driver.size.actual_pages == 3000
    assert there.driver.hints is not None
    assert there.driver.hints.blocks == blocks
    there.device.hint_round.done()
    there.run(1)
    assert not there.driver.hints.blocks
    there.device.polling.ask()
    there.run(1)
    assert there.device.statistics.reading is not None
    there.set_target(0)
    there.run(5)
    assert there.driver.size.pages.count == 0
    assert not there.kernel.table.used_as(Use.BALLOON, Use.HELD).size


def test_a_driver_without_a_device_is_not_written_down() -> None:
    here = guest(SPLIT)
    here.scheduler.thaw()
    here.do(here.driver.freeze())
    assert come_to_rest(here)
    with pytest.raises(GuestError, match="let go"):
        driver_state.state_of(here.driver)


def test_a_driver_that_does_not_rest_is_not_written_down() -> None:
    here = guest(SPLIT)
    here.scheduler.thaw()
    with pytest.raises(UsageError):
        driver_state.state_of(here.driver)


def test_a_driver_that_was_started_takes_no_state() -> None:
    here = guest(SPLIT)
    with pytest.raises(UsageError):
        driver_state.restore_state(here.driver, driver_state.state_of(here.driver))


def test_another_driver_is_told_apart() -> None:
    here = guest(SPLIT)
    kernel, driver = saved(here)
    settings = DriverSettings(hint_order=9)
    there = Pair(48 * MIB, here.device.settings, settings, here.kernel.settings, boots=False)
    kernel_state.restore_state(there.kernel, there.programs, kernel)
    with pytest.raises(SettingsError, match="driver of the saved guest"):
        driver_state.restore_state(there.driver, driver)


def waiting(offered: Feature) -> tuple[Pair, bytes]:
    """A guest that waits for the state of its driver, and that state."""
    here = guest(offered)
    kernel, driver = saved(here)
    there = empty_copy(here)
    kernel_state.restore_state(there.kernel, there.programs, kernel)
    return there, driver


WAITING = {offered: waiting(offered) for offered in (SPLIT, PACKED)}


def refused(offered: Feature, change: Change) -> None:
    there, state = WAITING[offered]
    driver = BalloonDriver(there.kernel, there.transport, no_fence, there.driver.settings)
    changed = forged(state, change)
    if changed == forged(state, lambda _, __: None):
        return  # by chance that is what was there
    with pytest.raises((StreamError, SettingsError)) as caught:
        driver_state.restore_state(driver, changed)
    assert "\n" not in str(caught.value)
    assert not driver.queues


@pytest.mark.parametrize("name", ["balloon", "hint_blocks"])
@pytest.mark.parametrize("value", [0, 1, 48 * MIB // 4096, 0xFFFF_FFFF])
def test_pages_that_are_not_the_balloons_are_refused(name: str, value: int) -> None:
    def change(_: object, arrays: dict[str, Any]) -> None:
        arrays[name][0] = value

    def lose(_: object, arrays: dict[str, Any]) -> None:
        arrays[name] = arrays[name][1:]

    def repeat(_: object, arrays: dict[str, Any]) -> None:
        arrays[name] = np.append(arrays[name], arrays[name][0])

    for one in (change, lose, repeat):
        refused(SPLIT, one)


@pytest.mark.parametrize("value", [-1, 1 << 62, 1 << 63, 1.5, "1", [], {}])
def test_numbers_that_are_none_are_refused(value: object) -> None:
    for name in parts(WAITING[SPLIT][1])[0]["fields"]["facts"]:

        def change(header: dict[str, Any], _: object, name: str = name) -> None:
            header["fields"]["facts"][name] = value

        refused(SPLIT, change)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("negotiated", 0), ("negotiated", 1 << 60), ("negotiated", int(PACKED))),
        *(("buffers_gpa", 0x1001), ("buffers_gpa", 40 * MIB), ("buffers_gpa", 1 << 48)),
        *(("stats_head", 5), ("stats_head", None), ("retry_ns", 0), ("hint_cmd_id", 1 << 32)),
    ],
)
def test_facts_that_contradict_the_guest_are_refused(name: str, value: object) -> None:
    def change(header: dict[str, Any], _: object) -> None:
        header["fields"]["facts"][name] = value

    refused(SPLIT, change)


@pytest.mark.parametrize("offered", [SPLIT, PACKED])
@pytest.mark.parametrize("queue", range(5))
@pytest.mark.parametrize(
    ("column", "value"),
    [
        *((0, 0x1001), (0, 1 << 40), (0, 40 * MIB), (1, 0), (1, 3), (1, 1 << 31), (1, 128)),
        *((3, 1 << 16), (3, 4711), (4, 1 << 16), (4, 4711), (5, 1), (6, []), (6, [0] * 64)),
        *((6, list(range(65))), (6, ["a"] * 64), (7, [[0]]), (7, [[]]), (7, [[0, 1]]), (7, [0])),
        *((7, [[1 << 70, 1]]), (7, None)),
    ],
)
def test_rings_that_cannot_be_are_refused(
    offered: Feature, queue: int, column: int, value: object
) -> None:
    def change(header: dict[str, Any], _: object) -> None:
        header["fields"]["queues"][queue][column] = value

    refused(offered, change)


def test_two_rings_in_one_place_are_refused() -> None:
    def change(header: dict[str, Any], _: object) -> None:
        rows = header["fields"]["queues"]
        rows[0][0] = rows[1][0]

    refused(SPLIT, change)


def test_a_ring_whose_memory_did_not_come_along_is_refused() -> None:
    """Of a split ring, whose index memory shows."""
    there, state = WAITING[SPLIT]
    gpa, size = parts(state)[0]["fields"]["queues"][0][:2]
    index = there.memory[gpa + 16 * size + 2 : gpa + 16 * size + 4]
    before = bytes(index)
    index[:] = (int.from_bytes(before, "little") + 1).to_bytes(2, "little")
    driver = BalloonDriver(there.kernel, there.transport, no_fence, there.driver.settings)
    with pytest.raises(StreamError, match="memory has index"):
        driver_state.restore_state(driver, state)
    index[:] = before


def test_fewer_queues_are_refused() -> None:
    refused(SPLIT, lambda header, _: header["fields"]["queues"].pop())
