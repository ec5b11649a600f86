"""Work on rings comes in turns, between which everybody else is looked at."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.integration.device_under_test import running_device
from tests.support.scripts import start_uml
from tests.support.session import INFLATE

from ballonet.vhost_user import connection

CHAINS = 32


def test_a_ring_full_of_messages_takes_as_many_turns_as_its_time_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "WORK_PER_TURN_NS", 0)  # each piece of work is a turn's
    with running_device(tmp_path / "b.sock") as device, start_uml(device.path) as guest:
        first, _ = guest.free_range()
        ring, loop = guest.rings[INFLATE], device.control.server.loop
        message = guest.write_pfns(INFLATE, [first])
        for _ in range(CHAINS):
            ring.add([message])
        ring.publish()
        before, answered = loop.turns, 0
        guest.front_end.kick(INFLATE)
        while answered < CHAINS:
            answered += len(guest.wait_used(INFLATE))
        device.control.status()  # the turn that answered the last one is over
        assert loop.turns - before >= CHAINS


def test_a_turn_is_short() -> None:
    assert connection.WORK_PER_TURN_NS <= 1_000_000
