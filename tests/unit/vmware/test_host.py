"""VMware's host: what it answers, and what it does with the memory it is given."""

import mmap
import struct

import pytest
from tests.support.clock import FakeClock
from tests.support.pair import MIB, DeviceMemory

from ballonet.balloon.facts import ActualChanged, Fact, PagesRejected
from ballonet.balloon.request import Stage
from ballonet.balloon.sibling_host import SiblingHost
from ballonet.memory.regions import Region, RegionTable
from ballonet.memory.runs import DiscardResult, Ranges
from ballonet.vmware.calls import ALL_CAPABILITIES, Answer, Capability, Command, Status
from ballonet.vmware.host import VmwareHost, VmwareHostSettings
from ballonet.vmware.lock_policy import RefusedPages

BATCH_PFN = 1
SIZE = 8 * MIB
WITH = Status.SUCCESS_WITH_CAPABILITIES


class Machine:
    """A host with a guest that does nothing by itself; all of its memory is full of ones."""

    def __init__(
        self, offered: Capability = ALL_CAPABILITIES, *, has_doorbell: bool = True
    ) -> None:
        self.ram = memoryview(mmap.mmap(-1, SIZE))
        self.ram[:] = b"\xff" * SIZE
        self.memory = DeviceMemory(self.ram, 4096)
        self.clock = FakeClock()
        self.rings: list[tuple[int, int]] = []
        self.host = VmwareHost(
            self.clock,
            VmwareHostSettings(offered),
            ring_doorbell=(lambda *ids: self.rings.append(ids)) if has_doorbell else None,
        )
        self.policy = RefusedPages()
        self.host.policy = self.policy
        self.facts: list[Fact] = []
        self.host.given.observers.add(self.facts.append)
        self.host.attach(self.memory)
        self.host.set_target(2048)

    def started(self) -> "Machine":
        self.host.call(Command.START, ALL_CAPABILITIES, 0)
        return self

    def batch(self, command: Command, *pfns: int) -> list[int]:
        """Statuses of a batch that is answered."""
        self.write_batch(pfns)
        answer = self.host.call(command, BATCH_PFN, len(pfns))
        assert answer == Answer(Status.SUCCESS, self.host.target_pages)
        return [word & 0xFFF for word in self.read_batch(len(pfns))]

    def write_batch(self, pfns: tuple[int, ...], at: int = BATCH_PFN << 12) -> None:
        raw = struct.pack(f"<{len(pfns)}Q", *(pfn << 12 for pfn in pfns))
        self.ram[at : at + len(raw)] = raw

    def read_batch(self, count: int) -> tuple[int, ...]:
        return struct.unpack_from(f"<{count}Q", self.ram, BATCH_PFN << 12)

    def is_dropped(self, pfn: int) -> bool:
        self.host.given.flush()
        return not any(self.ram[pfn << 12 : (pfn + 1) << 12])


@pytest.fixture
def machine() -> Machine:
    return Machine().started()


def test_a_host_has_the_shape_of_all_siblings() -> None:
    host: SiblingHost = Machine().host
    assert host.kind == "vmware"
    assert host.target_pages == 2048
    assert not host.is_running


@pytest.mark.parametrize(
    ("offered", "wanted", "answer"),
    [
        (ALL_CAPABILITIES, 0b111110, Answer(WITH, 0b111110)),
        (ALL_CAPABILITIES, 0b011110, Answer(WITH, 0b011110)),
        (ALL_CAPABILITIES, 2**64 - 1, Answer(WITH, 0b111110)),
        (Capability.BASIC | Capability.BATCHED, 0b111110, Answer(WITH, 0b000110)),
        (Capability.BASIC, 0b111110, Answer(Status.SUCCESS, 0)),
        (ALL_CAPABILITIES, 0b000010, Answer(Status.SUCCESS, 0)),
        (ALL_CAPABILITIES, 0, Answer(WITH, 0)),
    ],
)
def test_what_is_wanted_and_offered_is_granted(
    offered: Capability, wanted: int, answer: Answer
) -> None:
    machine = Machine(offered)
    assert machine.host.call(Command.START, wanted, 0) == answer
    assert machine.host.is_running == bool(wanted)


def test_without_a_way_to_ring_no_doorbell_is_granted() -> None:
    machine = Machine(has_doorbell=False).started()
    assert "doorbell" not in machine.host.capabilities
    assert machine.host.call(Command.VMCI_DOORBELL_SET, 3, 1).status == Status.CMD_INVALID
    assert machine.host.broken is None  # Linux's driver tries it always


@pytest.mark.parametrize(
    ("command", "needs"),
    [
        (Command.LOCK, Capability.BASIC),
        (Command.UNLOCK, Capability.BASIC),
        (Command.BATCHED_LOCK, Capability.BATCHED),
        (Command.BATCHED_UNLOCK, Capability.BATCHED),
        (Command.BATCHED_2M_LOCK, Capability.BATCHED_2M),
        (Command.BATCHED_2M_UNLOCK, Capability.BATCHED_2M),
        (Command.VMCI_DOORBELL_SET, Capability.DOORBELL),
    ],
)
def test_a_command_that_was_not_granted_is_none(command: Command, needs: Capability) -> None:
    machine = Machine()
    assert machine.host.call(command, 5, 1).status == Status.CMD_INVALID
    machine.host.call(Command.START, int(ALL_CAPABILITIES & ~needs), 0)
    assert machine.host.call(command, 5, 1).status == Status.CMD_INVALID
    assert machine.host.actual_pages == 0
    machine.host.call(Command.START, int(needs), 0)
    assert machine.host.call(command, 5, 1).status != Status.CMD_INVALID


@pytest.mark.parametrize("command", [5, 11, -1, 2**40])
def test_there_are_no_other_commands(machine: Machine, command: int) -> None:
    assert machine.host.call(command, 1, 1).status == Status.CMD_INVALID
    assert machine.host.broken is not None
    machine.started()
    assert machine.host.broken is None


def test_target_and_guest_id_need_no_start() -> None:
    machine = Machine()
    assert machine.host.call(Command.GET_TARGET, 4096, 0) == Answer(Status.SUCCESS, 2048)
    assert machine.host.call(Command.GUEST_ID, 1, 0).status == Status.SUCCESS
    told = machine.host.describe()
    assert (told["limit-pages"], told["guest-id"]) == (4096, 1)


def test_the_target_stands_in_every_answer(machine: Machine) -> None:
    call = machine.host.call
    machine.host.set_target(77)
    assert call(Command.LOCK, 5, 1) == Answer(Status.SUCCESS, 77)
    assert call(Command.LOCK, 5, 1) == Answer(Status.PPN_LOCKED, 77)
    assert call(Command.UNLOCK, 5, 1) == Answer(Status.SUCCESS, 77)
    assert call(Command.BATCHED_LOCK, BATCH_PFN, 1).result == 77


def test_a_target_beyond_32_bits_needs_to_be_granted(machine: Machine) -> None:
    machine.host.set_target(2**40)
    assert machine.host.call(Command.GET_TARGET, 1, 0).result == 2**40
    machine.host.call(Command.START, int(ALL_CAPABILITIES & ~Capability.TARGET_64), 0)
    assert machine.host.call(Command.GET_TARGET, 1, 0).result == 2**32 - 1


def test_single_pages_are_dropped_after_they_were_locked(machine: Machine) -> None:
    assert machine.host.call(Command.LOCK, 5, 1).status == Status.SUCCESS
    assert machine.host.actual_pages == 1
    assert not machine.is_dropped(4)
    assert machine.is_dropped(5)


def test_a_page_number_of_more_than_32_bits_is_no_page(machine: Machine) -> None:
    assert machine.host.call(Command.LOCK, 2**32 + 5, 1).status == Status.PPN_INVALID
    assert machine.host.call(Command.UNLOCK, 2**63, 1).status == Status.PPN_INVALID
    assert machine.host.actual_pages == 0


def test_a_batch_has_a_verdict_on_each_page(machine: Machine) -> None:
    machine.policy.pin([6])
    statuses = machine.batch(Command.BATCHED_LOCK, 5, 6, 5, SIZE >> 12, 7)
    assert statuses == [
        *(Status.SUCCESS, Status.PPN_PINNED, Status.PPN_LOCKED, Status.PPN_INVALID, 0)
    ]
    assert machine.host.locked.pfns.tolist() == [5, 7]
    assert [one >> 12 for one in machine.read_batch(5)] == [5, 6, 5, SIZE >> 12, 7]
    assert machine.is_dropped(7)
    assert not machine.is_dropped(6)
    assert machine.host.refusals == {
        Status.PPN_PINNED: 1,
        Status.PPN_LOCKED: 1,
        Status.PPN_INVALID: 1,
    }
    assert machine.host.broken is None
    assert machine.host.given.counters.rejected_pages == 1
    assert any(isinstance(fact, PagesRejected) for fact in machine.facts)


def test_a_block_is_dropped_whole(machine: Machine) -> None:
    assert machine.batch(Command.BATCHED_2M_LOCK, 512, 1000) == [0, Status.PPN_INVALID]
    assert machine.host.actual_pages == 512
    assert machine.is_dropped(512)
    assert machine.is_dropped(1023)
    assert not machine.is_dropped(511)
    assert not machine.is_dropped(1024)


def test_a_page_is_locked_once_in_either_way(machine: Machine) -> None:
    machine.batch(Command.BATCHED_LOCK, 600)
    assert machine.batch(Command.BATCHED_2M_LOCK, 512, 1024) == [Status.PPN_LOCKED, 0]
    assert machine.batch(Command.BATCHED_LOCK, 1025, 513) == [Status.PPN_LOCKED, 0]
    assert machine.batch(Command.BATCHED_UNLOCK, 1024) == [Status.PPN_UNLOCKED]
    assert machine.batch(Command.BATCHED_2M_UNLOCK, 512) == [Status.PPN_UNLOCKED]
    assert machine.host.actual_pages == 514


def test_no_more_is_locked_than_the_target_says(machine: Machine) -> None:
    machine.host.set_target(3)
    statuses = machine.batch(Command.BATCHED_LOCK, 5, 6, 7, 8, 9)
    assert statuses == [0, 0, 0, Status.PPN_NOTNEEDED, Status.PPN_NOTNEEDED]
    machine.host.set_target(4)
    assert machine.batch(Command.BATCHED_2M_LOCK, 512, 1024) == [0, Status.PPN_NOTNEEDED]
    assert machine.host.actual_pages == 515


def test_a_page_that_is_unlocked_is_not_dropped(machine: Machine) -> None:
    machine.batch(Command.BATCHED_LOCK, 5, 6)
    machine.batch(Command.BATCHED_2M_LOCK, 512)
    assert machine.batch(Command.BATCHED_UNLOCK, 5, 7, 5) == [
        *(0, Status.PPN_UNLOCKED, Status.PPN_UNLOCKED)
    ]
    assert machine.batch(Command.BATCHED_2M_UNLOCK, 512) == [0]
    assert machine.host.locked.pfns.tolist() == [6]
    assert not machine.is_dropped(5)
    assert not machine.is_dropped(700)
    assert machine.is_dropped(6)


def test_nothing_of_a_page_waits_when_its_unlock_is_answered(machine: Machine) -> None:
    machine.batch(Command.BATCHED_LOCK, 5)
    assert machine.host.given.ledger.waiting_bytes > 0
    machine.batch(Command.BATCHED_UNLOCK, 5)
    assert machine.host.given.ledger.waiting_bytes == 0


def test_a_page_that_the_host_does_not_unlock_stays_locked(machine: Machine) -> None:
    machine.batch(Command.BATCHED_LOCK, 5, 6)
    machine.policy.refuse_unlock([5], Status.BUSY)
    assert machine.batch(Command.BATCHED_UNLOCK, 5, 6) == [Status.BUSY, 0]
    assert machine.host.locked.pfns.tolist() == [5]
    assert machine.is_dropped(5)
    assert not machine.is_dropped(6)


def test_a_page_that_is_locked_twice_may_be_the_guests(machine: Machine) -> None:
    machine.batch(Command.BATCHED_LOCK, 5, 6)
    machine.batch(Command.BATCHED_LOCK, 5)
    assert not machine.is_dropped(5)
    assert machine.is_dropped(6)
    assert machine.host.actual_pages == 2


@pytest.mark.parametrize(
    ("page", "entries", "status"),
    [
        (BATCH_PFN, 0, Status.CMD_INVALID),
        (BATCH_PFN, 513, Status.CMD_INVALID),
        (BATCH_PFN, 2**64 - 1, Status.CMD_INVALID),
        (SIZE >> 12, 1, Status.PPN_INVALID),
        (2**52 - 1, 1, Status.PPN_INVALID),
        (2**64 - 1, 512, Status.PPN_INVALID),
    ],
)
def test_a_batch_that_cannot_be_read_is_refused_as_a_whole(
    machine: Machine, page: int, entries: int, status: Status
) -> None:
    machine.write_batch((5,))
    for command in Command:
        if "BATCHED" in command.name:
            answer = machine.host.call(command, page, entries)
            assert answer == Answer(status, 2048)
    assert machine.host.actual_pages == 0
    assert machine.read_batch(1) == (5 << 12,)
    assert machine.host.broken is not None


def test_a_batch_page_that_cannot_be_written_is_none() -> None:
    machine = Machine()

    class Rom(DeviceMemory):
        def view(self, gpa: int, length: int) -> memoryview:
            return super().view(gpa, length).toreadonly()

    machine.host.attach(Rom(machine.ram, 4096))
    machine.started()
    assert machine.host.call(Command.BATCHED_LOCK, BATCH_PFN, 1).status == Status.PPN_INVALID


def test_a_whole_batch_of_512_is_taken(machine: Machine) -> None:
    assert machine.batch(Command.BATCHED_LOCK, *range(2, 514)) == [0] * 512
    assert machine.host.actual_pages == 512


def test_a_batch_page_may_lie_among_its_own_pages(machine: Machine) -> None:
    assert machine.batch(Command.BATCHED_LOCK, BATCH_PFN, 5) == [0, 0]
    assert machine.host.actual_pages == 2
    assert machine.is_dropped(BATCH_PFN)


def test_a_reset_is_answered_until_a_driver_starts(machine: Machine) -> None:
    machine.batch(Command.BATCHED_LOCK, 5)
    machine.host.reset_guest()
    assert not machine.host.is_running
    for command in [*Command, 5, 99]:
        if command != Command.START:
            assert machine.host.call(command, BATCH_PFN, 1).status == Status.RESET
    assert machine.host.actual_pages == 1
    machine.started()
    assert machine.host.is_running
    assert machine.host.actual_pages == 0
    assert machine.batch(Command.BATCHED_LOCK, 5) == [0]


def test_a_driver_that_hears_of_a_reset_has_all_its_pages() -> None:
    """It frees them before it STARTs, and says nothing."""
    machine = Machine().started()
    machine.batch(Command.BATCHED_LOCK, 5)
    machine.host.reset_guest()
    assert not machine.is_dropped(5)


def test_a_driver_that_starts_has_all_its_pages(machine: Machine) -> None:
    for wanted in (int(ALL_CAPABILITIES), 0):
        machine.started().batch(Command.BATCHED_LOCK, 5)
        machine.host.call(Command.START, wanted, 0)
        assert not machine.is_dropped(5)
        assert machine.host.actual_pages == 0
    assert not machine.host.is_running
    assert machine.host.capabilities == ()


def test_a_guest_that_goes_is_forgotten(machine: Machine) -> None:
    machine.batch(Command.BATCHED_LOCK, 5)
    machine.host.call(Command.VMCI_DOORBELL_SET, 3, 1)
    machine.host.detach()
    assert (machine.host.actual_pages, machine.host.is_running) == (0, False)
    machine.host.set_target(9)
    assert machine.rings == []
    assert machine.host.call(Command.BATCHED_LOCK, BATCH_PFN, 1).status == Status.CMD_INVALID
    machine.started()
    assert machine.host.call(Command.LOCK, 5, 1).status == Status.PPN_INVALID
    assert machine.host.call(Command.BATCHED_LOCK, BATCH_PFN, 1).status == Status.PPN_INVALID
    machine.host.attach(machine.memory)
    machine.started()
    assert machine.host.call(Command.LOCK, 5, 1) == Answer(Status.SUCCESS, 9)


def test_memory_with_holes_is_taken_as_it_is() -> None:
    machine = Machine()

    class Holes(DeviceMemory):
        def __init__(self, memory: memoryview) -> None:
            super().__init__(memory, 4096)
            self.table = RegionTable(
                [Region(0, 4 * MIB, 1 << 40, 0), Region(5 * MIB, 3 * MIB, 1 << 41, 0)]
            )

        def discard(self, ranges: Ranges) -> DiscardResult:
            return DiscardResult(discarded_bytes=ranges.total_bytes)

    machine.host.attach(Holes(machine.ram))
    machine.started()
    statuses = machine.batch(Command.BATCHED_2M_LOCK, 512, 1024, 1536)
    assert statuses == [0, Status.PPN_INVALID, 0]
    assert machine.batch(Command.BATCHED_LOCK, 1024, 1280) == [Status.PPN_INVALID, 0]
    assert machine.host.call(Command.BATCHED_LOCK, 1024, 1).status == Status.PPN_INVALID


def test_the_doorbell_is_rung_for_a_target_and_a_reset(machine: Machine) -> None:
    machine.host.set_target(5)
    machine.host.call(Command.VMCI_DOORBELL_SET, 3, 8)
    machine.host.set_target(6)
    machine.host.reset_guest()
    assert machine.rings == [(3, 8), (3, 8)]


@pytest.mark.parametrize("ids", [(0xFFFF_FFFF, 8), (3, 0xFFFF_FFFF), (0xFFFF_FFFF, 0xFFFF_FFFF)])
def test_an_invalid_doorbell_is_none(machine: Machine, ids: tuple[int, int]) -> None:
    machine.host.call(Command.VMCI_DOORBELL_SET, 3, 8)
    assert machine.host.call(Command.VMCI_DOORBELL_SET, *ids).status == Status.SUCCESS
    machine.host.set_target(6)
    assert machine.rings == []


def test_a_request_is_followed_from_its_beginning_to_its_end(machine: Machine) -> None:
    host = machine.host

    def stage() -> Stage:
        return host.request.stage(host.actual_pages, running=host.is_running)

    host.set_target(2)
    assert stage() is Stage.SENT
    host.call(Command.GET_TARGET, 1, 0)
    assert stage() is Stage.READ
    machine.batch(Command.BATCHED_LOCK, 5)
    assert stage() is Stage.MOVING
    machine.batch(Command.BATCHED_LOCK, 6)
    assert stage() is Stage.REACHED
    times = host.request.times
    assert None not in (times.sent_ns, times.read_ns, times.moved_ns, times.reached_ns)
    machine.host.detach()
    assert stage() is Stage.NO_DRIVER


def test_who_observes_hears_of_every_size(machine: Machine) -> None:
    machine.batch(Command.BATCHED_LOCK, 5, 6)
    machine.batch(Command.BATCHED_LOCK, 5)
    machine.batch(Command.BATCHED_UNLOCK, 5)
    machine.started()
    sizes = [fact.actual_pages for fact in machine.facts if isinstance(fact, ActualChanged)]
    assert sizes == [2, 1, 0]
    counters = machine.host.given.counters
    assert (counters.inflated_pages, counters.inflate_messages) == (2, 1)


def test_what_waits_is_dropped_when_the_guest_pauses(machine: Machine) -> None:
    assert machine.host.deadline_ns is None
    machine.batch(Command.BATCHED_LOCK, 5)
    deadline_ns = machine.host.deadline_ns
    assert deadline_ns is not None
    assert not machine.host.expired()
    assert machine.memory.discarded_bytes == 0
    machine.clock.ns = deadline_ns
    while machine.host.expired():
        pass
    assert machine.memory.discarded_bytes == 4096
    assert machine.host.deadline_ns is None


def test_the_figures_are_told(machine: Machine) -> None:
    machine.policy.pin([9])
    machine.batch(Command.BATCHED_LOCK, 5, 6, 9)
    machine.batch(Command.BATCHED_2M_LOCK, 512)
    assert machine.host.describe() == {
        "capabilities": ["basic", "batched", "batched-2m", "doorbell", "64-bit-target"],
        "is-resetting": False,
        "guest-id": None,
        "limit-pages": None,
        "doorbell": False,
        "locked-pages": 2,
        "locked-blocks": 1,
        "calls": {"start": 1, "batchLock": 1, "2m-lock": 1},
        "refused": {"PPN_PINNED": 1},
    }
