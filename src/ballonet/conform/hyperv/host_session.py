"""A guest of Hyper-V's Dynamic Memory that does what a check says, message by message.

Units: 4 KiB pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from ballonet.conform.checks import Failed, expect
from ballonet.conform.device.marked_memory import MarkedMemory
from ballonet.conform.hyperv.wire import (
    BALLOON_REQUEST,
    CAPABILITIES_RESPONSE,
    UNBALLOON_REQUEST,
    UNBALLOON_RESPONSE,
    VERSION_RESPONSE,
    VERSIONS,
    Packet,
    Range,
    balloon_response,
    capabilities_report,
    message,
    pages_of,
    version_request,
)
from ballonet.units import BALLOON_PAGE_BYTES

__all__ = ["BALLOON", "HOT_ADD", "HostSession", "HostUnderTest", "runs_of"]

BALLOON: Final = 1
HOT_ADD: Final = 1 << 1
#: After the handshake; QEMU waits 50 s before it asks for anything.
_WAIT_S: Final = 60.0
_UNBALLOONS_MAX: Final = 10_000


class HostUnderTest(Protocol):
    """The other end of the channel, and what its operator does."""

    def received(self, raw: bytes) -> None:
        """Take a message of the guest's."""
        ...

    def open(self) -> None:
        """The guest opens the channel; also again, after it closed."""
        ...

    def close(self) -> None:
        """It closes the channel."""
        ...

    def set_target(self, pages: int) -> None:
        """Want the guest not to have so many pages."""
        ...

    @property
    def actual_pages(self) -> int:
        """What the host believes that it does not have."""
        ...

    def set_room(self, *, is_full: bool) -> None:
        """Let the ring to the guest be full, or empty again."""
        ...

    def sent(self) -> list[Packet]:
        """Every message to the guest."""
        ...

    def status(self) -> tuple[int, int] | None:
        """Bytes available and committed, by the newest report; None: none was heard."""
        ...

    def rest(self, seconds: float = 0.0) -> None:
        """Let time pass, and then until the host has nothing left to do."""
        ...


class HostSession:
    """One guest of one host."""

    def __init__(self, memory: MarkedMemory, host: HostUnderTest) -> None:
        self.memory: Final = memory
        self.host: Final = host
        self._heard = 0

    @property
    def end_pfn(self) -> int:
        """The first page number that names no memory."""
        return self.memory.file.size // BALLOON_PAGE_BYTES

    def reopen(self) -> None:
        """Close the channel, and open it again."""
        self.host.close()
        self.host.open()

    def say(self, raw: bytes) -> list[Packet]:
        """Any message; what the host says to it."""
        self.host.received(raw)
        return self.hear()

    def hear(self) -> list[Packet]:
        """What the host has said since the last time."""
        self.host.rest()
        new = self.host.sent()[self._heard :]
        self._heard += len(new)
        return new

    def offer(self, version: int) -> bool:
        """Ask for a version; whether it is accepted. Raises: Failed."""
        answers = self.say(version_request(version))
        expect(
            f"answers to version {version:#x}", [one.kind for one in answers], [VERSION_RESPONSE]
        )
        answers[0].check_size(16)
        return bool(answers[0].long(8) & 1)

    def report(self, capabilities: int) -> list[Packet]:
        """Tell what the guest can do; the host's answers. Raises: Failed."""
        answers = self.say(capabilities_report(capabilities))
        if not answers or answers[0].kind != CAPABILITIES_RESPONSE or not answers[0].long(8) & 1:
            raise Failed(f"capabilities {capabilities:#x} are not accepted")
        answers[0].check_size(16)
        return answers

    def shake_hands(self, capabilities: int = BALLOON, version: int = VERSIONS[0]) -> None:
        """Come to terms, and let the host be ready to ask. Raises: Failed."""
        if not self.offer(version):
            raise Failed(f"version {version:#x} is refused")
        self.report(capabilities)
        self.host.rest(_WAIT_S)
        self.hear()

    def target(self, pages: int) -> list[Packet]:
        """Have the operator want a size; what the host says to the guest."""
        self.host.set_target(pages)
        return self.hear()

    def asked(self, pages: int) -> int:
        """Have a target set for which the host asks for pages; how many. Raises: Failed."""
        said = self.target(pages)
        expect("what the host says", [one.kind for one in said], [BALLOON_REQUEST])
        said[0].check_size(16)
        expect("its second word", said[0].word(12), 0)
        return said[0].word(8)

    def give(self, pfns: Sequence[int], *, more: bool = False) -> list[Packet]:
        """Answer a request with pages."""
        return self.say(balloon_response(runs_of(pfns), more=more))

    def take_back(self, pages: int) -> list[int]:
        """Have a lower target set; the pages that come back, in their order. Raises: Failed.

        Each message is answered as it must be, and each page written as soon as it is heard of.
        """
        taken: list[int] = []
        said = self.target(pages)
        for _ in range(_UNBALLOONS_MAX):
            for one in said:
                if one.kind != UNBALLOON_REQUEST:
                    return taken
                some = pages_of(one.ranges)
                for pfn in some:
                    if pfn < self.end_pfn:
                        self.memory.write_page(pfn, salt=1)
                taken += some
            if not said or said[-1].has_more:
                said = self.hear()
            else:
                said = self.say(message(UNBALLOON_RESPONSE, b""))
            if not said:
                return taken
        raise Failed(f"more than {_UNBALLOONS_MAX} messages")

    def must_keep(self, pfns: Sequence[int], why: str, salt: int = 0) -> None:
        """These pages are as the guest wrote them. Raises: Failed."""
        self.host.rest()
        lost = len(pfns) - len(self.memory.kept(pfns, salt=salt))
        if lost:
            raise Failed(f"{lost} of {len(pfns)} pages are lost {why}")

    def must_drop(self, pfns: Sequence[int]) -> None:
        """The host has the memory of these pages, now or in a while. Raises: Failed."""
        self.host.rest()
        expect(f"pages of {len(pfns)} that are dropped", len(self.memory.emptied(pfns)), len(pfns))

    def works(self) -> str:
        """A fresh conversation gives a page and has it back. Raises: Failed."""
        self.reopen()
        self.host.set_target(0)
        self.shake_hands()
        (pfn,) = self.memory.pages(1)
        expect("pages asked for afterwards", self.asked(1), 1)
        self.give([pfn])
        self.must_drop([pfn])
        expect("pages given back afterwards", self.take_back(0), [pfn])
        self.must_keep([pfn], "afterwards", salt=1)
        return "it goes on to serve"


def runs_of(pfns: Sequence[int]) -> list[Range]:
    """Ranges of pages that follow each other, in their order."""
    ranges: list[Range] = []
    for pfn in pfns:
        if ranges and ranges[-1][0] + ranges[-1][1] == pfn:
            ranges[-1] = ranges[-1][0], ranges[-1][1] + 1
        else:
            ranges.append((pfn, 1))
    return ranges
