"""What the autopilot's law is told of a machine."""

from __future__ import annotations

from ballonet.autopilot.law import FIRST, step
from ballonet.autopilot.sample import HostSample, Round
from ballonet.autopilot.settings import Settings
from ballonet.vms.autopilot_sample import host_sample, vm_sample
from ballonet.vms.observation import Aged, HostMemory, MachineId, Observation
from ballonet.vms.this_host import HostLook, Pressure

MIB = 1 << 20
LOOK = Observation(
    MachineId("qemu", "db"),
    12.0,
    memory_bytes=1024 * MIB,
    actual_bytes=1000 * MIB,
    statistics={"avail": Aged(700 * MIB, 0.5), "majflt": Aged(3, 0.5)},
    host=HostMemory(400 * MIB),
    paused=False,
    has_driver=True,
    stats_last_update_s=99,
)


def test_everything_that_was_seen_is_told() -> None:
    sample = vm_sample("qemu:db", LOOK, now_s=13.5, deflates_on_oom=True)
    assert sample.vm == "qemu:db"
    assert (sample.memory_bytes, sample.actual_bytes) == (1024 * MIB, 1000 * MIB)
    assert sample.target_bytes is None
    assert sample.held_bytes == 400 * MIB
    assert sample.statistics == {"avail": 700 * MIB, "majflt": 3}
    assert (sample.statistics_id, sample.statistics_age_s) == (99, 2.0)  # it was 0.5 then
    assert sample.deflates_on_oom
    assert not sample.in_use


def test_a_machine_that_stands_still_is_in_use_by_somebody_else() -> None:
    paused = Observation(MachineId("qemu", "db"), 12.0, paused=True)
    assert vm_sample("db", paused, now_s=12.0).in_use


def test_one_that_has_no_balloon_or_was_never_reached_may_touch_all_its_memory() -> None:
    unknown = Observation(
        MachineId("qemu", "db"), 12.0, memory_bytes=1024 * MIB, host=HostMemory(100 * MIB)
    )
    sample = vm_sample("db", unknown, now_s=12.0, why_not="libvirt holds its monitor")
    rules = Settings(reserve_bytes=0)
    decided = step(FIRST, Round(12.0, HostSample(4096 * MIB, 3000 * MIB), (sample,)), rules)
    assert decided.budget.promised_bytes == 924 * MIB
    assert not decided.changes


def test_one_that_was_not_reached_says_why() -> None:
    assert vm_sample("db", LOOK, now_s=12.0, why_not="it is gone").no_answer == "it is gone"


def test_the_law_can_begin_with_it() -> None:
    sample = vm_sample("db", LOOK, now_s=12.0)
    seen = Round(12.0, HostSample(4096 * MIB, 64 * MIB), (sample,))
    change = step(FIRST, seen, Settings(reserve_bytes=512 * MIB)).changes[0]
    assert change.to_bytes < change.from_bytes == 1000 * MIB


def test_of_the_host_only_what_concerns_everybody_is_told() -> None:
    some, full = Pressure(0.5, 0.4, 3.0), Pressure(0.1, 0.0, 1.0)
    look = HostLook(12.0, 64, 32, 0, 0, some, full)
    assert host_sample(look) == HostSample(64, 32, 0.1)
    assert host_sample(HostLook(12.0, 64, 32, None, None, None, None)).full_stall_share is None
