"""Events between threads: of their moment, and only for those who want them."""

from __future__ import annotations

from ballonet.monitor.outbox import POSTED_MAX, Outbox


class Size:
    """Something whose value changes, and that counts who asks for it."""

    def __init__(self) -> None:
        self.value, self.asked = 0, 0

    def data(self) -> dict[str, object]:
        self.asked += 1
        return {"actual": self.value}


def test_an_event_carries_the_values_of_the_moment_it_was_posted() -> None:
    outbox, size = Outbox(), Size()
    outbox.open()
    for size.value in (1, 2):
        outbox.post("BALLOON_CHANGE", size.data)
    size.value = 0
    assert [event.data for event in outbox.take()] == [{"actual": 1}, {"actual": 2}]


def test_for_nobody_nothing_is_asked_or_kept_and_nobody_is_woken() -> None:
    outbox, size, woken = Outbox(), Size(), list[int]()
    outbox.call_when_posted(lambda: woken.append(1))
    outbox.post("BALLOON_CHANGE", size.data)
    outbox.open()
    assert (size.asked, woken, list(outbox.take())) == (0, [], [])


def test_a_closed_outbox_forgets_what_was_posted_and_whom_to_wake() -> None:
    outbox, woken = Outbox(), list[int]()
    outbox.open()
    outbox.call_when_posted(lambda: woken.append(1))
    outbox.close()
    outbox.open()
    outbox.post("STOP")
    assert woken == []
    outbox.close()
    assert list(outbox.take()) == []


def test_one_look_is_woken_once_whatever_was_posted() -> None:
    outbox, woken = Outbox(), list[int]()
    outbox.open()
    outbox.call_when_posted(lambda: woken.append(1))
    for _ in range(3):
        outbox.post("STOP")
    assert woken == [1]
    outbox.call_when_posted(lambda: woken.append(2))  # what was posted is still there
    assert woken == [1, 2]


def test_of_too_many_the_newest_are_kept() -> None:
    outbox = Outbox()
    outbox.open()
    for number in range(POSTED_MAX + 5):
        outbox.post("x", lambda number=number: {"number": number})  # type: ignore[misc]
    numbers = [event.data["number"] for event in outbox.take()]
    assert numbers == list(range(5, POSTED_MAX + 5))
