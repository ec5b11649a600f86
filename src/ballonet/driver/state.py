"""A driver at rest is written down, and another one goes on with its balloon and its rings.

The rings themselves and what lies in the buffers are in guest memory.  No message is under way at
rest, but for the statistics buffer that the device keeps and blocks that were hinted.  Hinted
blocks stay the driver's until the device says DONE where the guest goes on: to give them back
first would only make the stop longer.
The kernel's state is restored before this one; the two must agree on every frame.
Units: frames.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Final

import numpy as np

from ballonet.driver.balloon_driver import (
    BalloonDriver,
    RingInUse,
    choose_features,
    roles_by_number,
)
from ballonet.driver.settings import DriverSettings
from ballonet.driver.size_worker import RETRY_NS_MAX, RETRY_NS_MIN
from ballonet.errors import GuestError, GuestMemoryError, RingError, SettingsError, UsageError
from ballonet.kernel.frames import Frames, Use
from ballonet.kernel.state_form import StatePart, StateReader, pack_state, read_state
from ballonet.virtio.features import Feature
from ballonet.virtio.hint_ids import CMD_ID_STOP
from ballonet.virtio.queues import QueueRole
from ballonet.virtio.ring.driver import RingState

__all__ = ["restore_state", "state_of"]

PART: Final = StatePart("driver", {"balloon": "<u4", "hint_blocks": "<u4"})
#: Queues with chains while the driver rests; of the others each chain has a task that waits for it.
_RESTING: Final = (QueueRole.STATS, QueueRole.HINT)
_U32: Final = 1 << 32
_RING_SIZE_MAX: Final = 32_768


@dataclass(frozen=True, slots=True)
class DriverFacts:
    """Single numbers of a driver and its workers; times by the guest's clock."""

    negotiated: int
    buffers_gpa: int
    wants_size: bool
    retry_ns: int
    retry_at_ns: int | None
    out_of_puff: int
    stats_head: int | None
    hint_rounds: int
    hint_cmd_id: int
    hint_active_id: int
    hint_is_unread: bool
    wants_hint: bool
    report_chains: int


def state_of(driver: BalloonDriver) -> bytes:
    """What a driver needs to go on elsewhere.

    Raises: UsageError, if its tasks do not rest; GuestError, if it has no device.
    """
    if not driver.queues:
        raise GuestError("the driver has let go of its device")
    if not driver.kernel.scheduler.is_frozen:
        raise UsageError(f"tasks do not rest: {', '.join(driver.kernel.scheduler.restless)}")
    rows = []
    for (role, queue), (gpa, _) in zip(driver.queues.items(), driver.memory[1:], strict=True):
        ring = queue.ring.snapshot()
        if ring.chains and role not in _RESTING:
            raise UsageError(f"a message is under way on the {role.name.lower()} queue")
        rows.append(
            [
                *(gpa, queue.ring.size, queue.slow_answers, ring.next_position),
                *(ring.seen_position, ring.wants_calls, ring.free, ring.chains),
            ]
        )
    values = {
        "settings": _settings_of(driver.settings),
        "facts": asdict(_facts(driver)),
        "queues": rows,
    }
    blocks = driver.hints.blocks if driver.hints is not None else []
    arrays = {"balloon": driver.size.pages.frames, "hint_blocks": np.array(blocks, np.int64)}
    return pack_state(PART, values, arrays)


def restore_state(driver: BalloonDriver, raw: bytes) -> None:
    """Fill a driver that was not started, in a kernel whose state was restored.

    Raises: UsageError, if it was started; SettingsError, if it is set up in another way;
    StreamError, if the state cannot be right.  Neither driver nor kernel may be used then.
    """
    if driver.queues:
        raise UsageError("a driver that was started takes no state")
    reader = read_state(PART, raw)
    theirs, ours = reader.values.get("settings"), _settings_of(driver.settings)
    if theirs != ours:
        raise SettingsError("driver of the saved guest", str(theirs)[:200], str(ours))
    facts = reader.record(DriverFacts, "facts")
    negotiated = _negotiated(driver, reader, facts)
    roles = list(roles_by_number(negotiated, driver.settings.layout).values())
    rings, slow = _rings(reader, roles)
    _check_under_way(reader, facts, dict(zip(roles, rings, strict=True)))
    balloon, blocks = _pages(driver, reader, negotiated)
    try:
        driver.resume(negotiated, facts.buffers_gpa, rings)
    except (RingError, GuestMemoryError) as error:
        raise reader.refuse(str(error)) from error
    for queue, count in zip(driver.queues.values(), slow, strict=True):
        queue.slow_answers = count
    driver.size.pages.push(balloon)
    _fill_facts(driver, facts, blocks)


def _settings_of(settings: DriverSettings) -> dict[str, object]:
    return {"layout": settings.layout.value, "hint_order": settings.hint_order}


def _facts(driver: BalloonDriver) -> DriverFacts:
    size, hints = driver.size, driver.hints
    return DriverFacts(
        int(driver.negotiated),
        driver.memory[0][0],
        size.wanted.is_set,
        size.retry_ns,
        size.retry_at_ns,
        size.out_of_puff,
        driver.stats.head if driver.stats is not None else None,
        hints.rounds if hints is not None else 0,
        hints.cmd_id if hints is not None else CMD_ID_STOP,
        hints.active_id if hints is not None else CMD_ID_STOP,
        hints is not None and hints.is_unread,
        hints is not None and hints.changed.is_set,
        driver.reports.chains if driver.reports is not None else 0,
    )


def _fill_facts(driver: BalloonDriver, facts: DriverFacts, blocks: list[int]) -> None:
    size, hints = driver.size, driver.hints
    size.retry_ns, size.retry_at_ns = facts.retry_ns, facts.retry_at_ns
    size.out_of_puff = facts.out_of_puff
    if facts.wants_size:
        size.wanted.set()
    if driver.stats is not None:
        driver.stats.head = facts.stats_head
    if hints is not None:
        hints.blocks.extend(blocks)
        hints.rounds, hints.is_unread = facts.hint_rounds, facts.hint_is_unread
        hints.cmd_id, hints.active_id = facts.hint_cmd_id, facts.hint_active_id
        if facts.wants_hint:
            hints.changed.set()
    if driver.reports is not None:
        driver.reports.chains = facts.report_chains


def _negotiated(driver: BalloonDriver, reader: StateReader, facts: DriverFacts) -> Feature:
    """What a driver like this one could have accepted. Raises: StreamError, SettingsError."""
    poisons = driver.kernel.settings.poison is not None
    chosen = choose_features(facts.negotiated, driver.settings.accepts, poisons=poisons)
    if chosen != facts.negotiated:
        raise SettingsError("features of the saved guest", hex(facts.negotiated), hex(chosen))
    if max(facts.hint_cmd_id, facts.hint_active_id) >= _U32:
        raise reader.refuse("its hint rounds have no 32-bit ids")
    if not RETRY_NS_MIN <= facts.retry_ns <= RETRY_NS_MAX:
        raise reader.refuse(f"it tries again after {facts.retry_ns} ns")
    return chosen


def _rings(reader: StateReader, roles: list[QueueRole]) -> tuple[list[RingInUse], list[int]]:
    """Each queue's ring, and how often it was slow. Raises: StreamError."""
    rows = reader.table("queues", int, int, int, int, int, bool, list, list)
    if len(rows) != len(roles):
        raise reader.refuse(f"it has {len(rows)} queues, not {len(roles)}")
    rings = []
    for gpa, size, _, following, seen, wants_calls, free, chains in rows:
        if not 0 < size <= _RING_SIZE_MAX or size & (size - 1):
            raise reader.refuse(f"a ring has {size} entries")
        if len(free) > size or len(chains) > size or not all(map(_is_index_list, [free, *chains])):
            raise reader.refuse("a ring has entries that are no numbers")
        state = RingState(tuple(free), tuple(map(tuple, chains)), following, seen, wants_calls)
        rings.append(RingInUse(gpa, size, state))
    return rings, [row[2] for row in rows]


def _is_index_list(values: object) -> bool:
    return isinstance(values, list) and all(
        type(value) is int and 0 <= value <= _RING_SIZE_MAX for value in values
    )


def _check_under_way(
    reader: StateReader, facts: DriverFacts, rings: dict[QueueRole, RingInUse]
) -> None:
    """Nobody would wait for any other chain. Raises: StreamError."""
    for role, ring in rings.items():
        heads = [chain[0] for chain in ring.state.chains if chain]
        if role is QueueRole.STATS:
            if heads != [head for head in [facts.stats_head] if head is not None]:
                raise reader.refuse("the statistics buffer is not the one chain of its queue")
        elif heads and role not in _RESTING:
            raise reader.refuse(f"a message is under way on the {role.name.lower()} queue")


def _pages(
    driver: BalloonDriver, reader: StateReader, negotiated: Feature
) -> tuple[Frames, list[int]]:
    """The balloon's frames and the hinted blocks, as the kernel knows them. Raises: StreamError."""
    kernel, order = driver.kernel, driver.settings.hint_order
    balloon = reader.arrays["balloon"].astype(np.int64)
    if not np.array_equal(np.sort(balloon), kernel.table.used_as(Use.BALLOON)):
        raise reader.refuse("the balloon has not the frames that the kernel gave it")
    if kernel.hidden_frames != (0 if negotiated & Feature.DEFLATE_ON_OOM else balloon.size):
        raise reader.refuse(f"{kernel.hidden_frames} of {balloon.size} frames are hidden")
    blocks = reader.arrays["hint_blocks"].astype(np.int64)
    held = kernel.table.used_as(Use.HELD)
    if blocks.size and not negotiated & Feature.FREE_PAGE_HINT:
        raise reader.refuse("it has hinted blocks, and no hint queue")
    if blocks.size << order != held.size or not np.array_equal(
        (np.sort(blocks)[:, None] + np.arange(1 << order)).ravel(), held
    ):
        raise reader.refuse("the hinted blocks are not the frames that the kernel holds for them")
    return balloon, blocks.tolist()
