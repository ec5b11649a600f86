"""Blocking calls on a thread that nobody has to wait for.

The kernel lets a reader of /proc/PID wait for as long as that process holds its memory locked,
which may be for ever; a pool's thread would keep the program from ending then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from typing import TypeVar

__all__ = ["in_thread"]

T = TypeVar("T")


async def in_thread(function: Callable[[], T]) -> T:
    """What a function returns or raises; whoever is cancelled leaves its thread behind."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def tell(result: T | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type] # None only if T is

    def work() -> None:
        result, error = None, None
        try:
            result = function()
        except BaseException as raised:  # told to whoever waits
            error = raised
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(tell, result, error)

    Thread(target=work, daemon=True).start()
    return await done
