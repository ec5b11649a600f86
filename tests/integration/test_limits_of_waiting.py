"""What waits to be dropped: within its limits whatever a guest does, and gone before the device."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.integration.device_under_test import running_device
from tests.support.scripts import start_qemu
from tests.support.session import INFLATE
from tests.support.wait import PATIENCE_S

from ballonet.balloon import page_ledger, page_set
from ballonet.balloon.page_ledger import PageLedger
from ballonet.memory.mapping import GuestMemory
from ballonet.memory.runs import DiscardResult, Ranges
from ballonet.vhost_user import connection

PAGE = 4096
FOR_EVER_NS = 1 << 60


def test_what_waits_is_dropped_before_the_device_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_ledger, "QUIET_NS", FOR_EVER_NS)
    monkeypatch.setattr(page_ledger, "AGE_NS_MAX", FOR_EVER_NS)
    with ExitStack() as stack, running_device(tmp_path / "b") as device:
        guest = stack.enter_context(start_qemu(device.path))
        first, _ = guest.free_range(1)
        guest.ram.fill(first, 256)
        guest.inflate(range(first, first + 256))
        assert device.status().waiting_bytes == 256 * PAGE
        assert guest.ram.changed_pages(first, 256) == set()
        device.control.stop()
        assert guest.front_end.wire.is_closed(PATIENCE_S)
        assert guest.ram.changed_pages(first, 256) == set(range(first, first + 256))


@pytest.mark.parametrize("limit", ["AGE_NS_MAX", "WAITING_BYTES_MAX"])
def test_a_limit_holds_while_the_guest_keeps_its_ring_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(page_ledger, "QUIET_NS", FOR_EVER_NS)
    monkeypatch.setattr(page_ledger, "AGE_NS_MAX", FOR_EVER_NS)
    monkeypatch.setattr(page_ledger, limit, 1)
    monkeypatch.setattr(connection, "WORK_PER_TURN_NS", 0)  # one step of a queue in each turn
    answered_when_dropped: list[int] = []
    discard = GuestMemory.discard

    def record(memory: GuestMemory, ranges: Ranges) -> DiscardResult:
        answered_when_dropped.append(ring.used_idx)
        return discard(memory, ranges)

    with running_device(tmp_path / "b") as device, start_qemu(device.path) as guest:
        monkeypatch.setattr(GuestMemory, "discard", record)
        ring, (first, _) = guest.rings[INFLATE], guest.free_range(1)
        count = ring.size // 2
        for i in range(count):
            ring.add([guest.write_pfns_at(INFLATE, 4 * i, [first + 2 * i])])
        ring.publish()
        guest.front_end.kick(INFLATE)
        while ring.used_idx < count:
            guest.wait_used(INFLATE)
        device.rest()
    assert len(answered_when_dropped) == count
    assert answered_when_dropped[0] <= 1


def test_a_full_ledger_takes_no_message_before_it_has_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = 8  # of a message, and of the limit
    monkeypatch.setattr(page_ledger, "WAITING_BYTES_MAX", pages * PAGE)
    monkeypatch.setattr(page_set, "_RANGES_MAX", 1)  # one of its pages in each step
    monkeypatch.setattr(connection, "WORK_PER_TURN_NS", 0)
    waiting: list[int] = []
    step = PageLedger.step

    def record(ledger: PageLedger) -> Ranges | None:
        waiting.append(ledger.waiting_bytes)
        return step(ledger)

    monkeypatch.setattr(PageLedger, "step", record)
    with running_device(tmp_path / "b") as device, start_qemu(device.path) as guest:
        ring, (first, _) = guest.rings[INFLATE], guest.free_range(1)
        count = ring.size // 2
        for i in range(count):
            named = [first + 2 * (pages * i + part) for part in range(pages)]
            ring.add([guest.write_pfns_at(INFLATE, 4 * pages * i, named)])
        ring.publish()
        guest.front_end.kick(INFLATE)
        while ring.used_idx < count:
            guest.wait_used(INFLATE)
        device.rest()
    assert pages * PAGE <= max(waiting) < 2 * pages * PAGE
