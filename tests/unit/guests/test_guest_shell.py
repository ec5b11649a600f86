"""What a guest's init answers on its serial line, read back."""

from __future__ import annotations

import socket

from ballonet.errors import GuestError
from ballonet.guests.guest_shell import GuestShell


def answer_to_the_first(answers: bytes) -> str:
    """What comes of a command; answers that are there before it is sent will do."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(answers)
        try:
            return GuestShell(theirs, lambda: "its last words\n").check("echo")
        except GuestError as error:
            return str(error)


def test_an_answer_that_comes_too_late_for_its_own_command_is_passed_over() -> None:
    assert answer_to_the_first(b"0 137 4\nlate1 0 2\nin") == "in"


def test_a_command_that_did_not_arrive_whole_is_told_at_once() -> None:
    assert answer_to_the_first(b"JlcCBe 1 0\n").splitlines() == [
        "the guest answers what it was not asked, JlcCBe; the end of its console:",
        "its last words",
    ]
