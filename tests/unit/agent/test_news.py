"""What the agent says in its log: changes, and nothing each round."""

from __future__ import annotations

from dataclasses import replace

from tests.support.rounds import machine, round_of

from ballonet.agent.news import News
from ballonet.vms.discovery import Found


def told(news: News, *found: Found) -> list[str]:
    return list(news.of(round_of(*found)))


def test_the_first_round_is_one_line() -> None:
    machines = [machine("a"), machine("b"), machine("c", kind="ballonet")]
    assert told(News(), *machines) == ["watching 3 machines: 1 of ballonet, 2 of qemu"]
    assert told(News()) == ["watching 0 machines"]


def test_who_comes_and_who_leaves_is_said_once() -> None:
    news = News()
    told(news)
    assert told(news, machine("web")) == ["qemu:web is there"]
    assert told(news, machine("web")) == []
    assert told(news) == ["qemu:web is gone"]
    assert told(news) == []


def test_one_is_said_to_be_silent_after_three_rounds_and_to_answer_after_that() -> None:
    news = News()
    told(news, machine("web"))
    silent = machine("web", why_not="it keeps silent for 6 s")
    assert [told(news, silent) for _ in range(4)] == [
        [], [], ["qemu:web does not answer: it keeps silent for 6 s"], [],
    ]  # fmt: skip
    assert told(news, machine("web")) == ["qemu:web answers again"]
    assert told(news, machine("web")) == []


def test_one_that_is_slow_now_and_then_is_no_news() -> None:
    news = News()
    told(news, machine("web"))
    for _ in range(5):
        assert told(news, machine("web", why_not="slow")) == []
        assert told(news, machine("web", why_not="slow")) == []
        assert told(news, machine("web")) == []


def test_one_that_is_never_asked_is_said_so_when_it_comes_and_not_again() -> None:
    news = News()
    told(news)
    taken = machine("web", why_not="libvirtd has it")
    taken = replace(taken, sighting=replace(taken.sighting, why_not="libvirtd has it"))
    said = [told(news, taken) for _ in range(4)]
    assert said == [["qemu:web is there, not reached: libvirtd has it"], [], [], []]
