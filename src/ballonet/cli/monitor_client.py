"""What the verbs that talk to a monitor have in common."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

import click
from click.shell_completion import CompletionItem

from ballonet.errors import BallonetError

__all__ = ["JSON_OPTION", "MACHINE_ARGUMENT", "complete_machines", "run"]

T = TypeVar("T")


def complete_machines(
    ctx: click.Context,  # noqa: ARG001 - click's signature
    param: click.Parameter,  # noqa: ARG001
    incomplete: str,
) -> list[CompletionItem]:
    """Names of machines that begin so, or paths; asks nobody but our own hosts."""
    from ballonet.vms.discovery import find_machines  # noqa: PLC0415 - `ballonet --help` does without

    if "/" in incomplete:
        return [CompletionItem(incomplete, type="file")]
    try:
        ids = [one.who for one in asyncio.run(find_machines())]
    except BallonetError:
        return []
    known = [one.name for one in ids]
    names = [one.name if known.count(one.name) == 1 else f"{one.kind}:{one.name}" for one in ids]
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


MACHINE_ARGUMENT: Final = click.argument(
    "address", metavar="MACHINE", shell_complete=complete_machines
)
JSON_OPTION: Final = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a client to its end, or to INT, TERM or HUP; then what it changed is put back first.

    Raises: KeyboardInterrupt after INT; SystemExit with 128 and the signal's number after others.
    """
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        return asyncio.run(_until_told(work))
    finally:
        # The loop leaves the defaults, which would end the program without its `finally`s.
        for number, handler in handlers.items():
            signal.signal(number, handler)


async def _until_told(work: Coroutine[Any, Any, T]) -> T:
    """An exception that a handler raises ends the loop and with it the connection; so it cancels.

    Only the task is cancelled, and once: its `finally`s may use the connection.
    """
    loop, task = asyncio.get_running_loop(), asyncio.ensure_future(work)
    told: list[int] = []

    def end(number: int) -> None:
        if not told:
            told.append(number)
            task.cancel()

    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, end, number)
    try:
        return await task
    except asyncio.CancelledError:
        if not told:
            raise
    if told[0] == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + told[0])
