"""What an audit of a conversation says of guests that keep wrong accounts."""

from __future__ import annotations

import pytest

from ballonet.conform.checks import Failed
from ballonet.conform.hyperv import scripted_host as hyperv
from ballonet.conform.hyperv.guest_session import balloon_request
from ballonet.conform.hyperv.wire import Packet, balloon_response, message, unballoon_request
from ballonet.conform.vmware import scripted_host as vmware
from ballonet.vmware.calls import Answer, Call, Command, Status

PAGES = 1000
RESET = Answer(Status.RESET, 0)
OK = Answer(Status.SUCCESS, 0)


def said(command: Command, arg1: int = 0, arg2: int = 0, answer: Answer = OK) -> vmware.Said:
    return vmware.Said(0, Call(command, arg1, arg2), answer, (), ())


def batch(command: Command, words: list[int], statuses: list[int]) -> vmware.Said:
    call = Call(command, 9, len(words))
    return vmware.Said(0, call, OK, tuple(words), tuple(statuses))


STARTED = said(Command.START, 2)
BATCHED = vmware.Said(
    0, Call(Command.START, 0b1110, 0), Answer(Status.SUCCESS_WITH_CAPABILITIES, 0b1110), (), ()
)


def test_pages_are_the_hosts_as_the_guest_was_told() -> None:
    record = [
        BATCHED,
        batch(Command.BATCHED_LOCK, [5 << 12, 6 << 12, 7 << 12], [0, 5, 0]),
        batch(Command.BATCHED_UNLOCK, [7 << 12], [0]),
        batch(Command.BATCHED_2M_LOCK, [512 << 12], [0]),
        batch(Command.BATCHED_2M_UNLOCK, [512 << 12], [8]),
    ]
    assert vmware.audit(record, 2048) == {5, *range(512, 1024)}
    assert not vmware.audit([*record, said(Command.GET_TARGET, answer=RESET)], 2048)
    assert not vmware.audit([*record, STARTED], 2048)


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ([STARTED, said(Command.LOCK, 5, 1), said(Command.LOCK, 5, 1)], "are the host's"),
        ([STARTED, said(Command.UNLOCK, 5, 1)], "not given"),
        ([STARTED, said(Command.LOCK, PAGES, 1)], "no page of the guest's"),
        ([said(Command.LOCK, 5, 1)], "before START"),
        ([STARTED, batch(Command.BATCHED_LOCK, [5 << 12], [0])], "not granted"),
        ([BATCHED, batch(Command.BATCHED_LOCK, [5 << 12] * 2, [0, 3])], "twice"),
        ([BATCHED, batch(Command.BATCHED_LOCK, [5 << 12 | 1], [0])], "bits 0 to 11"),
        ([BATCHED, batch(Command.BATCHED_2M_LOCK, [5 << 12], [0])], "no page of the guest's"),
        ([BATCHED, batch(Command.BATCHED_LOCK, [], [])], "of 0 entries"),
        ([STARTED, said(Command.VMCI_DOORBELL_SET, 3, 1)], "doorbell"),
        ([STARTED, said(Command.GET_TARGET, answer=RESET), said(Command.LOCK, 5, 1)], "RESET"),
    ],
)
def test_what_no_guest_of_vmware_s_may_ask_is_found(record: list[vmware.Said], words: str) -> None:
    with pytest.raises(Failed, match=words):
        vmware.audit(record, PAGES)


def host(raw: bytes) -> hyperv.Spoken:
    return hyperv.Spoken(is_guests=False, packet=Packet(0, raw))


def guest(raw: bytes, trans_id: int) -> hyperv.Spoken:
    return hyperv.Spoken(is_guests=True, packet=Packet(0, raw[:4] + bytes([trans_id]) + raw[5:]))


def test_pages_are_the_hosts_until_it_gives_them_back() -> None:
    record = [
        host(balloon_request(8)),
        guest(balloon_response([(10, 4)], more=True), 1),
        guest(balloon_response([(20, 4)]), 2),
        host(unballoon_request([(12, 1), (23, 5)])),
        guest(message(9, b""), 3),
    ]
    assert hyperv.audit(record, PAGES) == {10, 11, 13, 20, 21, 22}


ASKED = [host(balloon_request(8)), host(balloon_request(8))]


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ([guest(balloon_response([(5, 1)]), 1)], "nobody waits"),
        ([*ASKED, *(guest(balloon_response([(5, 1)]), n) for n in (1, 2))], "given twice"),
        ([*ASKED, guest(balloon_response([(5, 2), (6, 1)]), 1)], "given twice"),
        ([*ASKED, guest(balloon_response([(PAGES - 1, 2)]), 1)], "no memory"),
        ([*ASKED, guest(balloon_response([(5, 1)], count=2), 1)], "bytes that say"),
        ([*ASKED, guest(balloon_response([(n, 1) for n in range(511)]), 1)], "of 4104 bytes"),
        ([guest(message(9, b""), 1)], "nobody waits"),
        ([host(unballoon_request([], more=True)), guest(message(9, b""), 1)], "nobody waits"),
        ([*ASKED, *(guest(balloon_response([]), 7) for _ in range(2))], "comes after"),
    ],
)
def test_what_no_guest_of_hyper_v_s_may_say_is_found(
    record: list[hyperv.Spoken], words: str
) -> None:
    with pytest.raises(Failed, match=words):
        hyperv.audit(record, PAGES)
