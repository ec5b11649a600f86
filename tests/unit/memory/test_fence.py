"""The barrier: an atomic operation, which taking a lock is."""

from __future__ import annotations

import pytest

from ballonet.memory import fence


class Lock:
    """Notes how it is used."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __enter__(self) -> None:
        self.calls.append("taken")

    def __exit__(self, *_: object) -> None:
        self.calls.append("given back")


def test_a_fence_takes_a_lock_and_gives_it_back(monkeypatch: pytest.MonkeyPatch) -> None:
    lock = Lock()
    monkeypatch.setattr(fence, "_lock", lock)
    fence.full_fence()
    assert lock.calls == ["taken", "given back"]
