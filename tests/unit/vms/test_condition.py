"""What a balloon is doing, in a word."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from ballonet.vms.change import Verdict
from ballonet.vms.condition import CONDITION_OF, Condition, ConditionWatch
from ballonet.vms.device_info import DeviceInfo, parse_device_info
from ballonet.vms.observation import Aged, MachineId, Observation

MIB = 1 << 20
WHO = MachineId("ballonet", "web")


def device(*, connected: bool = True) -> DeviceInfo:
    return parse_device_info({"connected": connected, "running": True})


def look(
    at_s: float,
    actual_mib: int | None,
    target_mib: int | None = None,
    available_mib: int | None = None,
    **known: object,
) -> Observation:
    """Statistics of every second, as a guest that runs sends them."""
    statistics = {"memtot": Aged(1 << 30, 0.0)}
    if available_mib is not None:
        statistics["avail"] = Aged(available_mib * MIB, 0.0)
    given: dict[str, object] = {
        "memory_bytes": 1024 * MIB,
        "actual_bytes": None if actual_mib is None else actual_mib * MIB,
        "target_bytes": None if target_mib is None else target_mib * MIB,
        "statistics": statistics,
        "stats_last_update_s": 1000 + int(at_s),
        "has_driver": True,
        "device": device(),
        **known,
    }
    return Observation(WHO, at_s, **given)  # type: ignore[arg-type]


def words(looks: Iterable[Observation]) -> list[str]:
    watch = ConditionWatch()
    return [watch.see(one).value for one in looks]


def test_a_size_that_another_asked_for_is_followed_until_it_is_there() -> None:
    looks = [look(0, 1024, 1024), look(2, 1024, 512), look(4, 700, 512), look(6, 512, 512)]
    assert words([*looks, look(8, 512, 512)]) == ["", "asked", "moving", "arrived", "arrived"]


def test_a_guest_that_answers_and_does_not_move_is_stuck_until_it_moves() -> None:
    looks = [look(0, 1024, 1024), *(look(2.0 + s, 1024, 512) for s in range(8))]
    assert words(looks)[-1] == "stuck"
    assert words([*looks, look(20, 600, 512)])[-1] == "moving"


def test_a_guest_that_answers_nothing_gets_more_time() -> None:
    silent = [look(2.0 + s, 1024, 512, stats_last_update_s=1000) for s in range(20)]
    told = words([look(0, 1024, 1024), *silent])
    assert (told[9], told[-1]) == ("asked", "stuck")


def test_one_that_leaves_its_size_again_is_followed_again() -> None:
    looks = [look(0, 512, 512), look(2, 600, 512), look(4, 512, 512)]
    assert words(looks) == ["", "moving", "arrived"]


def test_where_no_target_is_told_only_what_moves_is_known() -> None:
    sizes = [1024, 900, 900, 900]
    looks = [look(2.0 * at, size, device=None) for at, size in enumerate(sizes)]
    assert words(looks) == ["", "moving", "", ""]


def test_what_keeps_a_guest_from_following_is_told_first() -> None:
    assert words([look(0, 1024, 512, paused=True)]) == ["paused"]
    assert words([look(0, 1024, 512, has_driver=False)]) == ["no driver"]
    assert words([look(0, None, device=device(connected=False), paused=True)]) == ["no VMM"]


def test_one_that_was_paused_goes_on_where_it_was() -> None:
    looks = [look(0, 1024, 1024), *(look(1.0 + s, 1024, 512, paused=True) for s in range(9))]
    assert words([*looks, look(11, 900, 512), look(12, 512, 512)])[-3:] == [
        "paused",
        "moving",
        "arrived",
    ]


def test_a_guest_that_suffers_is_told_so_and_why_until_it_does_not() -> None:
    watch = ConditionWatch()
    assert watch.see(look(0, 512, 512, available_mib=3)) is Condition.SUFFERING
    assert watch.suffers_from == "it has only 3.0 MiB available"
    assert watch.see(look(2, 512, 512, available_mib=100)) is Condition.QUIET


def test_a_look_that_was_seen_before_is_no_news() -> None:
    old = look(2, 900, device=None)
    assert words([look(0, 1024, device=None), old, old, old])[1:] == ["moving"] * 3


@pytest.mark.parametrize("verdict", Verdict)
def test_every_verdict_has_a_word(verdict: Verdict) -> None:
    assert CONDITION_OF[verdict].value
