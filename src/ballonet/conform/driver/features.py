"""Checks of what a driver accepts, and of the order it begins in."""

from __future__ import annotations

from typing import Final

from ballonet.conform.checks import Failed, Level, Suite
from ballonet.conform.driver.guests import DriverRig
from ballonet.virtio.features import BALLOON_FEATURES, RING_FEATURES, Feature, feature_names

__all__ = ["EVERYTHING", "SUITE"]

SUITE: Suite[DriverRig] = Suite()

#: What the device offers unless a check wants something else; with DEFLATE_ON_OOM a guest under
#: pressure would take pages back.
EVERYTHING: Final = RING_FEATURES | (BALLOON_FEATURES & ~Feature.DEFLATE_ON_OOM)
_POISON_AT: Final = 12


@SUITE.check("G-F1", Level.SHOULD, "accepts MUST_TELL_HOST")
def accepts_must_tell_host(rig: DriverRig) -> str:
    negotiated = rig.machine(EVERYTHING).negotiated
    if Feature.MUST_TELL_HOST not in negotiated:
        raise Failed(f"it accepts only {', '.join(feature_names(negotiated))}")
    return ", ".join(feature_names(negotiated))


@SUITE.check("G-F2", Level.SHOULD, "declines PAGE_POISON unless its kernel fills freed pages")
def declines_poison(rig: DriverRig) -> str:
    if Feature.PAGE_POISON in rig.machine(EVERYTHING).negotiated:
        raise Failed("a kernel that does not poison accepts it")
    if Feature.PAGE_POISON not in rig.machine(EVERYTHING, poisons=True).negotiated:
        raise Failed("a kernel that poisons declines it")
    return "declined without poisoning, accepted with it"


@SUITE.check(
    "G-F3", Level.SHOULD, "a kernel that fills freed pages takes no reporting without PAGE_POISON"
)
def declines_reporting(rig: DriverRig) -> str:
    offered = EVERYTHING & ~Feature.PAGE_POISON
    if Feature.PAGE_REPORTING in rig.machine(offered, poisons=True).negotiated:
        raise Failed("it accepts PAGE_REPORTING, and reported pages come back without their poison")
    return "it declines PAGE_REPORTING"


@SUITE.check("G-F4", Level.MUST, "never accepts ACCESS_PLATFORM, and nothing that was not offered")
def accepts_only_what_is_offered(rig: DriverRig) -> str:
    negotiated = rig.machine(EVERYTHING).negotiated
    if negotiated & ~EVERYTHING:
        raise Failed(f"it accepts {', '.join(feature_names(negotiated & ~EVERYTHING))}")
    return "it accepts only what is offered"


@SUITE.check("G-P2", Level.MUST, "writes poison_val before it uses the device")
def poison_is_told_first(rig: DriverRig) -> str:
    machine = rig.machine(EVERYTHING, poisons=True)
    accesses = [one for one in machine.device.record.accesses if one.offset == _POISON_AT]
    writes = [one for one in accesses if one.is_write]
    if not writes:
        raise Failed("it accepts PAGE_POISON and writes no value")
    if writes[0].messages_before:
        raise Failed(f"{writes[0].messages_before} messages came before the value")
    return f"it writes {writes[0].data.hex()} before its first message"


@SUITE.check("G-P3", Level.MUST, "does not change poison_val afterwards")
def poison_stays(rig: DriverRig) -> str:
    machine = rig.machine(EVERYTHING, poisons=True)
    machine.resize(1000)
    machine.resize(0)
    writes = machine.device.record.writes(_POISON_AT)
    if len(writes) != 1:
        raise Failed(f"it writes {len(writes)} times")
    return "one write, and none while the balloon moves"
