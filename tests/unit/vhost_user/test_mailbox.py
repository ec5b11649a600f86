"""A value on its way to another thread; the test is that thread."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ballonet.vhost_user.mailbox import Mailbox


class Receiver:
    """Takes what is posted when the test says so."""

    def __init__(self) -> None:
        self.posted: list[Callable[[], None]] = []
        self.taken: list[int] = []
        self.box: Mailbox[int] = Mailbox(self.posted.append, self.take)

    def take(self, value: int) -> None:
        if value < 0:
            raise ValueError(value)
        self.taken.append(value)

    def run(self) -> None:
        while self.posted:
            self.posted.pop(0)()


def test_of_many_values_at_once_the_newest_arrives_and_wakes_once() -> None:
    receiver = Receiver()
    for value in range(100):
        receiver.box.put(value)
    assert len(receiver.posted) == 1
    receiver.run()
    assert receiver.taken == [99]


def test_a_value_is_shown_before_it_has_arrived() -> None:
    receiver = Receiver()
    assert receiver.box.newest(1) == 1
    receiver.box.put(5)
    assert receiver.box.newest(1) == 5
    receiver.run()
    assert receiver.box.newest(1) == 1


def test_after_a_failure_the_next_value_arrives() -> None:
    receiver = Receiver()
    receiver.box.put(-1)
    with pytest.raises(ValueError, match="-1"):
        receiver.run()
    receiver.box.put(7)
    receiver.run()
    assert receiver.taken == [7]


def test_a_value_that_comes_while_another_is_taken_arrives_too() -> None:
    receiver = Receiver()

    def take(value: int) -> None:
        receiver.taken.append(value)
        if value == 1:
            receiver.box.put(2)

    receiver.box = Mailbox(receiver.posted.append, take)
    receiver.box.put(1)
    receiver.run()
    assert receiver.taken == [1, 2]
