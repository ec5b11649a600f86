"""The newest round for everybody who looks: encoded once, and never kept for who is slow.

Whoever cannot take rounds as fast as they come gets the newest when it can take one.
"""

from __future__ import annotations

import asyncio

__all__ = ["Feed"]


class Feed:
    """Belongs to one loop."""

    def __init__(self) -> None:
        self.number = 0  #: of the newest; 0: there is none yet
        self.newest = b""
        self._more = asyncio.Event()

    def publish(self, data: bytes) -> None:
        """The newest."""
        self.number += 1
        self.newest = data
        more, self._more = self._more, asyncio.Event()
        more.set()

    async def next_after(self, number: int, patience_s: float) -> int:
        """The number of the newest, once that is another one, or when patience is over."""
        if self.number == number:
            try:
                async with asyncio.timeout(patience_s):
                    await self._more.wait()
            except TimeoutError:
                pass
        return self.number
