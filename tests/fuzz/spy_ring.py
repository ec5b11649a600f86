"""A ring between the device and the real one, that keeps account of every chain."""

from __future__ import annotations

from typing import Protocol

from ballonet.virtio.ring.chain import Chain, DeviceRing


class Watch(Protocol):
    """Who is told of a chain's fate, by its head."""

    def popped(self, queue: int, chain: Chain) -> None: ...
    def un_popped(self, queue: int, head: int) -> None: ...
    def answered(self, queue: int, head: int) -> None: ...


class SpyRing:
    """A `DeviceRing`."""

    def __init__(self, ring: DeviceRing, queue: int, watch: Watch) -> None:
        self._ring, self._queue, self._watch = ring, queue, watch
        self.outstanding: list[int] = []
        self.pops = 0

    def pop(self) -> Chain | None:
        chain = self._ring.pop()
        if chain is not None:
            self.pops += 1
            self.outstanding.append(chain.head)
            self._watch.popped(self._queue, chain)
        return chain

    def un_pop(self) -> None:
        assert self.outstanding, "un-popped what was never popped"
        self._watch.un_popped(self._queue, self.outstanding.pop())
        self._ring.un_pop()

    def push(self, head: int, length: int) -> None:
        assert head in self.outstanding, f"chain {head} used, outstanding are {self.outstanding}"
        assert length == 0, "used length"
        self.outstanding.remove(head)
        self._ring.push(head, length)
        self._watch.answered(self._queue, head)

    def publish(self) -> bool:
        return self._ring.publish()

    def disable_kicks(self) -> None:
        self._ring.disable_kicks()

    def enable_kicks(self) -> bool:
        return self._ring.enable_kicks()

    @property
    def base(self) -> int:
        return self._ring.base

    def release(self) -> None:
        self._ring.release()
