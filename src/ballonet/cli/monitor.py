"""`ballonet monitor`: a monitor's commands by hand."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import click

from ballonet.cli.monitor_client import MACHINE_ARGUMENT, run
from ballonet.errors import CommandRefusedError, GuestError, MonitorError
from ballonet.vms.addresses import qmp_path
from ballonet.vms.qmp_monitor import QmpMonitor, connected

__all__ = ["monitor"]

_PROMPT: Final = "(ballonet) "
_HISTORY: Final = Path.home() / ".ballonet_history"
_READ_BYTES: Final = 1 << 16


@click.command()
@MACHINE_ARGUMENT
def monitor(address: str) -> None:
    """Type a monitor's commands: HMP as in QEMU, or QMP as JSON.

    MACHINE is the name of one, as `ballonet list` shows it, or a QMP socket.  Leave with Ctrl-D.
    """
    if sys.stdin is None:  # it was closed when the program started
        raise GuestError("there is nothing to read commands from: standard input is closed")
    run(_converse(address))


async def _converse(address: str) -> None:
    async with connected(await qmp_path(address)) as qmp:
        if sys.stdin.isatty():
            await _with_terminal(qmp)
        else:
            async for line in _lines(sys.stdin.fileno()):
                await _execute(qmp, line.strip())


async def _lines(fd: int) -> AsyncIterator[str]:
    """Lines of a pipe or a file, never waiting for them in a way that no signal can end."""
    rest = b""
    while data := await _read(fd):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace")
    yield rest.decode(errors="replace")


async def _read(fd: int) -> bytes:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    try:
        loop.add_reader(fd, readable.set)
    except PermissionError:  # a file, which needs no waiting for
        return os.read(fd, _READ_BYTES)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(fd)
    return os.read(fd, _READ_BYTES)


async def _with_terminal(qmp: QmpMonitor) -> None:
    try:
        from prompt_toolkit import PromptSession  # noqa: PLC0415 - only with a terminal
        from prompt_toolkit.completion import WordCompleter  # noqa: PLC0415
        from prompt_toolkit.history import FileHistory  # noqa: PLC0415
    except ImportError as error:
        raise MonitorError(
            "a prompt needs more than is installed: pip install prompt-toolkit, or pipe commands in"
        ) from error

    words = await _words(qmp)
    session: PromptSession[str] = PromptSession(
        history=FileHistory(str(_HISTORY)), completer=WordCompleter(words, sentence=True)
    )
    while True:
        try:
            line = await session.prompt_async(_PROMPT)
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
        await _execute(qmp, line.strip())


async def _words(qmp: QmpMonitor) -> list[str]:
    """What can be completed: every command this monitor knows."""
    names = []
    for line in (await qmp.human("help")).splitlines():
        names += line.split(" ", 1)[0].split("|")
    for line in (await qmp.human("info help")).splitlines():
        names.append(" ".join(line.split()[:2]))
    return sorted(filter(None, names))


async def _execute(qmp: QmpMonitor, line: str) -> None:
    """Do what a line says. Raises: MonitorError, if the monitor is gone."""
    if not line:
        return
    if line.startswith("{"):
        click.echo(json.dumps(await _qmp(qmp, line), indent=2))
        return
    try:
        click.echo(await qmp.human(line), nl=False)
    except CommandRefusedError as error:
        click.echo(error.desc)


async def _qmp(qmp: QmpMonitor, line: str) -> object:
    try:
        command = json.loads(line)
        name, arguments = command["execute"], command.get("arguments", {})
    except (ValueError, KeyError, RecursionError) as error:
        return {"error": f"this is not a QMP command: {error}"}
    if not isinstance(name, str) or not isinstance(arguments, dict):
        return {"error": "this is not a QMP command: execute and arguments of the wrong type"}
    try:
        reply: object = await qmp.execute_typed(name, arguments)
    except CommandRefusedError as error:
        return {"error": {"class": error.qmp_class, "desc": error.desc}}
    return reply
