"""The driver's calls: what is sent, and what it makes of any answer."""

import numpy as np
import pytest
from tests.support.vmware_pair import VmwarePair

from ballonet.kernel.tasks import Job
from ballonet.vmware.calls import (
    ALL_CAPABILITIES,
    NO_CAPABILITIES,
    Answer,
    Call,
    Capability,
    Command,
    Status,
)
from ballonet.vmware.host_calls import HostCalls, Verdicts

WITH = Status.SUCCESS_WITH_CAPABILITIES


class Scripted(VmwarePair):
    """A host that says whatever a test wants."""

    def __init__(self) -> None:
        super().__init__()
        self.says: list[Answer] = []
        self.statuses: list[int] | None = None  #: written into the batch page

    def answer(self, call: Call) -> Answer:
        if self.statuses is not None and "BATCHED" in Command(call.command).name:
            page = np.frombuffer(self.host_memory.view(call.arg1 << 12, 4096), "<u8")
            page[: len(self.statuses)] = self.statuses
        return self.says.pop(0)

    @property
    def ends(self) -> HostCalls:
        return self.driver.calls

    def verdicts(self, job: Job[Verdicts]) -> tuple[list[bool], bool]:
        result = self.do(job)
        assert isinstance(result, Verdicts)
        return result.accepted.tolist(), result.is_answered


@pytest.fixture
def pair() -> Scripted:
    return Scripted()


@pytest.mark.parametrize(
    ("wanted", "answer", "capabilities"),
    [
        (ALL_CAPABILITIES, Answer(WITH, 0b110), Capability.BASIC | Capability.BATCHED),
        (ALL_CAPABILITIES, Answer(WITH, 2**64 - 1), ALL_CAPABILITIES),
        (Capability.BASIC, Answer(WITH, 0b110), Capability.BASIC),
        (ALL_CAPABILITIES, Answer(Status.SUCCESS, 0b110), Capability.BASIC),
        (ALL_CAPABILITIES, Answer(WITH, 0), NO_CAPABILITIES),
    ],
)
def test_no_more_is_granted_than_was_wanted(
    pair: Scripted, wanted: Capability, answer: Answer, capabilities: Capability
) -> None:
    pair.says = [answer]
    assert pair.do(pair.ends.start(wanted)) is True
    assert pair.ends.capabilities == capabilities
    assert pair.calls == [Call(Command.START, int(wanted), 0)]


@pytest.mark.parametrize("status", [Status.CMD_INVALID, Status.BUSY, Status.RESET, -1, 2**40])
def test_a_start_that_is_refused_grants_nothing(pair: Scripted, status: int) -> None:
    pair.says = [Answer(WITH, 0b110), Answer(status, 0b110)]
    pair.do(pair.ends.start(ALL_CAPABILITIES))
    assert pair.do(pair.ends.start(ALL_CAPABILITIES)) is False
    assert pair.ends.capabilities == NO_CAPABILITIES


def test_blocks_need_batches(pair: Scripted) -> None:
    for granted, takes in ((0b1010, False), (0b1110, True), (0b0110, False)):
        pair.says = [Answer(WITH, granted)]
        pair.do(pair.ends.start(ALL_CAPABILITIES))
        assert pair.ends.takes_blocks == takes


def test_the_target_comes_with_answers_of_success_alone(pair: Scripted) -> None:
    pair.says = [
        Answer(Status.SUCCESS, 7),
        Answer(Status.PPN_PINNED, 8),
        Answer(Status.SUCCESS, 9),
        Answer(Status.SUCCESS, 10),
    ]
    assert pair.do(pair.ends.get_target()) is True
    assert pair.calls == [Call(Command.GET_TARGET, pair.kernel.managed_frames, 0)]
    pair.do(pair.ends.lock(np.array([5]), 1))
    assert pair.ends.target_pages == 7
    pair.do(pair.ends.send_guest_id())
    assert pair.ends.target_pages == 7  # no target comes with it
    pair.do(pair.ends.unlock(np.array([5]), 1))
    assert pair.ends.target_pages == 10


def test_a_target_has_32_bits_unless_more_was_granted(pair: Scripted) -> None:
    pair.says = [Answer(Status.SUCCESS, 2**40 + 5), Answer(WITH, 0b100010)]
    pair.do(pair.ends.get_target())
    assert pair.ends.target_pages == 5
    pair.do(pair.ends.start(ALL_CAPABILITIES))
    pair.says = [Answer(Status.SUCCESS, 2**80 + 2**40 + 5)]
    pair.do(pair.ends.get_target())
    assert pair.ends.target_pages == 2**40 + 5


def test_a_guest_of_too_much_memory_does_not_ask(
    pair: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pair.kernel.zones[0], "managed_frames", 2**32)
    assert pair.do(pair.ends.get_target()) is False
    assert pair.calls == []
    pair.says = [Answer(WITH, 0b100010), Answer(Status.SUCCESS, 1)]
    pair.do(pair.ends.start(ALL_CAPABILITIES))
    assert pair.do(pair.ends.get_target()) is True
    assert pair.calls[-1].arg1 == 2**32


def test_without_a_batch_page_one_page_is_moved(pair: Scripted) -> None:
    assert pair.ends.batch_max == 1
    pair.says = [Answer(Status.SUCCESS, 0), Answer(Status.PPN_LOCKED, 0)]
    for accepted in (True, False):
        assert pair.verdicts(pair.ends.lock(np.array([77]), 1)) == ([accepted], accepted)
    assert pair.calls == [Call(Command.LOCK, 77, 1)] * 2


def test_a_page_number_beyond_32_bits_needs_batches(pair: Scripted) -> None:
    assert pair.verdicts(pair.ends.lock(np.array([2**32]), 1)) == ([False], False)
    assert pair.calls == []


@pytest.mark.parametrize(
    ("pages", "lock", "unlock"),
    [
        (1, Command.BATCHED_LOCK, Command.BATCHED_UNLOCK),
        (512, Command.BATCHED_2M_LOCK, Command.BATCHED_2M_UNLOCK),
    ],
)
def test_a_batch_is_judged_page_by_page_and_nothing_else_is_read(
    pair: Scripted, pages: int, lock: Command, unlock: Command
) -> None:
    assert pair.ends.allocate_batch_page()
    assert pair.ends.batch_max == 512
    pair.statuses = [0xFF_F000, 0xABC_D007, 0x20]  # other pages, and reserved bits
    pair.says = [Answer(Status.SUCCESS, 0)] * 2
    for job in (pair.ends.lock, pair.ends.unlock):
        verdicts = pair.verdicts(job(np.array([512, 1024, 1536]), pages))
        assert verdicts == ([True, False, True], True)
    assert [(one.command, one.arg2) for one in pair.calls] == [(lock, 3), (unlock, 3)]
    pair.ends.free_batch_page()
    assert pair.kernel.free_frames == pair.free_at_boot


def test_a_whole_call_that_is_refused_stands_for_its_pages(pair: Scripted) -> None:
    pair.ends.allocate_batch_page()
    pair.statuses = [0, 0]
    pair.says = [Answer(Status.BUSY, 0)]
    assert pair.verdicts(pair.ends.lock(np.array([5, 6]), 1)) == ([False, False], False)


def test_no_pages_need_no_call(pair: Scripted) -> None:
    assert pair.verdicts(pair.ends.lock(np.empty(0, np.int64), 1)) == ([], True)
    assert pair.calls == []


def test_a_reset_is_noticed_in_any_answer(pair: Scripted) -> None:
    pair.ends.reset_required = False
    pair.says = [Answer(Status.RESET, 0)]
    pair.do(pair.ends.send_guest_id())
    assert pair.ends.reset_required


def test_calls_are_made_one_at_a_time(pair: Scripted) -> None:
    pair.is_slow = True
    pair.says = [Answer(Status.SUCCESS, 0)] * 3
    for job in (pair.ends.get_target(), pair.ends.exchange(5, 6)):
        pair.scheduler.spawn("call", job)
    pair.run_guest()
    assert len(pair.asked) == 1
    pair.answer_one()
    pair.run_guest()
    assert len(pair.asked) == 1
    pair.run()
    assert [one.command for one in pair.calls] == [1, Command.UNLOCK, Command.LOCK]


def test_every_call_is_counted(pair: Scripted) -> None:
    pair.says = [Answer(Status.SUCCESS, 0), Answer(Status.BUSY, 0), Answer(WITH, 0)]
    pair.do(pair.ends.get_target())
    pair.do(pair.ends.get_target())
    pair.do(pair.ends.start(ALL_CAPABILITIES))
    assert pair.ends.made == {"target": 2, "start": 1}
    assert pair.ends.failed == {"target": 1}
