"""A ring between the device and the real one, that keeps account of every chain."""

from __future__ import annotations

from ballonet.virtio.ring.chain import Chain, DeviceRing


class SpyRing:
    """A `DeviceRing`; `current` is the chain popped last."""

    def __init__(self, ring: DeviceRing) -> None:
        self._ring = ring
        self.outstanding: list[int] = []
        self.current: Chain | None = None
        self.pops = 0

    def pop(self) -> Chain | None:
        chain = self._ring.pop()
        if chain is not None:
            self.pops += 1
            self.current = chain
            self.outstanding.append(chain.head)
        return chain

    def un_pop(self) -> None:
        assert self.outstanding, "un-popped what was never popped"
        self.outstanding.pop()
        self._ring.un_pop()

    def push(self, head: int, length: int) -> None:
        assert head in self.outstanding, f"chain {head} used, outstanding are {self.outstanding}"
        assert length == 0, "used length"
        self.outstanding.remove(head)
        self._ring.push(head, length)

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
