"""What CONFIG_HYPERV_BALLOON builds, seen of Linux's own hv_balloon."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final, NamedTuple

from ballonet.balloon.clock import Clock
from ballonet.balloon.facts import Fact, MessageReceived, MessageSent
from ballonet.guests.hyperv_evidence import Meeting, observe_floor, observe_hot_add
from ballonet.guests.hyperv_guest import BLOCK_BYTES, HypervGuest
from ballonet.hyperv.host import HypervHost
from ballonet.hyperv.settings import HypervHostSettings
from ballonet.lab.experiment import Experiment, Kernel
from ballonet.lab.notebook import Notebook
from ballonet.lab.waiting import wait_for
from ballonet.siblings.vmbus_serial import MakeHost
from ballonet.units import format_bytes, pages_to_bytes

__all__ = ["EXPERIMENT"]

_MEMORY_BYTES: Final = 4 * BLOCK_BYTES
_BALLOON_PAGES: Final = 20_000
_USED_PERCENT: Final = 75
_SHOWN: Final = 16
_HOST: Final = HypervHostSettings(post_init_wait_ns=0, status_report=True)


class Said(NamedTuple):
    """One message."""

    by_guest: bool
    name: str
    figures: dict[str, int]  #: of its arguments those that are numbers

    def __str__(self) -> str:
        way = "guest → host" if self.by_guest else "host → guest"
        words = ", ".join(f"{name} {value:,}" for name, value in self.figures.items())
        return f"{way}  {self.name}: {words}"


def _on_qemu(notebook: Notebook) -> None:
    with HypervGuest(_MEMORY_BYTES, spare_bytes=BLOCK_BYTES) as guest:
        notebook.runs_on(guest.linux.release, "QEMU, with a bus of ours in place of Hyper-V's")
        guest.shell.use_memory(_USED_PERCENT)
        conversation: list[Said] = []
        notebook.step(f"the real hv_balloon meets a host that wants {_BALLOON_PAGES:,} pages")
        with guest.served(_HOST, _noted_in(conversation)) as port:
            meeting = Meeting(guest, port)
            meeting.until(lambda host: host.is_running, "say what it can do")
            fell = _give_and_take(guest, meeting)
            wait_for(lambda: _named(conversation, "StatusReport"), "a status report")
            notebook.step("the host asks for everything")
            has_floor, floor = observe_floor(meeting)
        notebook.step("another host has memory to add, that the guest did not boot with")
        settings = replace(_HOST, extra_gpa=guest.memory_bytes, extra_bytes=BLOCK_BYTES)
        with guest.served(settings) as port:
            meeting = Meeting(guest, port)
            meeting.until(lambda host: host.is_running, "say what it can do")
            grows, growth = observe_hot_add(meeting)
    notebook.block("the conversation", "\n".join(map(str, conversation[:_SHOWN])))
    notebook.see("a floor", floor)
    notebook.see("hot add", growth)
    _claim(notebook, conversation, fell)
    notebook.claim("asked for everything the guest keeps a floor", holds=has_floor)
    notebook.claim("the same driver takes memory that the guest did not boot with", holds=grows)
    ranges = _sum(_named(conversation, "BalloonResponse")[: _answers(conversation)], "ranges")
    notebook.conclude(
        f"{_BALLOON_PAGES:,} pages were given in {ranges} ranges, MemTotal fell by"
        f" {format_bytes(fell)}; hot add: {growth}."
    )


def _give_and_take(guest: HypervGuest, meeting: Meeting) -> int:
    """A balloon and none; by how much MemTotal fell between, in bytes."""
    before = guest.shell.meminfo()["MemTotal"]
    meeting.settle(_BALLOON_PAGES)
    fell = before - guest.shell.meminfo()["MemTotal"]
    meeting.settle(0)
    return fell


def _noted_in(conversation: list[Said]) -> MakeHost:
    """Makes a host of which everything that is said from the beginning is noted."""

    def hear(fact: Fact) -> None:
        if isinstance(fact, MessageReceived | MessageSent):
            figures = {
                name: value for name, value in fact.arguments.items() if isinstance(value, int)
            }
            conversation.append(Said(isinstance(fact, MessageReceived), fact.name, figures))

    def make_host(
        clock: Clock, settings: HypervHostSettings, send: Callable[[bytes], bool]
    ) -> HypervHost:
        host = HypervHost(clock, settings, send)
        host.given.observers.add(hear, details=True)
        return host

    return make_host


def _claim(notebook: Notebook, conversation: list[Said], fell: int) -> None:
    first = conversation[0]
    notebook.claim(
        "the guest begins, with the version that it speaks",
        holds=first.by_guest and first.name == "VersionRequest",
    )
    requests = _named(conversation, "BalloonRequest")
    place = {name: _place(conversation, name) for name in ("BalloonRequest", "BalloonResponse")}
    notebook.claim(
        "then it is the host that asks, for a number of pages, and the guest chooses which",
        holds=place["BalloonRequest"] < place["BalloonResponse"]
        and requests[0].figures["pages"] == _BALLOON_PAGES,
    )
    given = _named(conversation, "BalloonResponse")[: _answers(conversation)]
    notebook.claim(
        "pages are named as ranges, many fewer than pages",
        holds=_sum(given, "pages") == _BALLOON_PAGES
        and 0 < _sum(given, "ranges") < _BALLOON_PAGES // 10,
    )
    notebook.claim(
        "MemTotal falls by just those pages", holds=fell == pages_to_bytes(_BALLOON_PAGES)
    )
    back = _named(conversation, "UnballoonRequest")
    notebook.claim(
        "the host, which alone has the list, says which pages go back",
        holds=bool(back) and not back[0].by_guest and back[0].figures["ranges"] > 0,
    )
    asked = {one.name for one in conversation if not one.by_guest}
    notebook.claim(
        "the guest reports its memory without being asked",
        holds=bool(_named(conversation, "StatusReport")) and not any("Status" in a for a in asked),
    )


def _named(conversation: list[Said], name: str) -> list[Said]:
    return [one for one in conversation if one.name == name]


def _place(conversation: list[Said], name: str) -> int:
    return next(number for number, one in enumerate(conversation) if one.name == name)


def _answers(conversation: list[Said]) -> int:
    """How many answers belong to the first request: all before pages were asked to go back."""
    until = _place(conversation, "UnballoonRequest")
    return len(_named(conversation[:until], "BalloonResponse"))


def _sum(messages: list[Said], figure: str) -> int:
    return sum(one.figures[figure] for one in messages)


EXPERIMENT: Final = Experiment(
    name="hyperv",
    question="What is CONFIG_HYPERV_BALLOON?",
    answer="It builds hv_balloon, the guest's half of Hyper-V's Dynamic Memory: a balloon with"
    " messages of its own, and in the same driver memory that is added while the guest runs.",
    explanation="Nothing of it is virtio. Guest and host send messages over VMBus: the guest begins"
    " with versions and capabilities, then the host asks for a number of pages and is answered with"
    " ranges, says later which of them go back, and may add memory that the guest did not have when"
    " it was started. The guest computes a floor below which it gives nothing, and reports every"
    " second how much memory it has and needs. Hyper-V is not here: the driver is Debian's, and"
    " finds its bus in a module of ours; the host is ours.",
    sources=(
        "Linux drivers/hv/Kconfig, HYPERV_BALLOON",
        "Linux drivers/hv/hv_balloon.c, balloon_up, compute_balloon_floor, post_status",
        "QEMU hw/hyperv/hv-balloon.c, include/hw/hyperv/dynmem-proto.h",
        "docs/siblings.md",
    ),
    runs={Kernel.QEMU: _on_qemu},
)
