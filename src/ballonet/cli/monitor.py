"""`ballonet monitor`: a monitor's commands by hand."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Final

import click

from ballonet.cli.monitor_client import SOCKET_ARGUMENT, run
from ballonet.errors import MonitorError
from ballonet.vms.qmp_vm import QmpVm, connected

__all__ = ["monitor"]

_PROMPT: Final = "(ballonet) "
_HISTORY: Final = Path.home() / ".ballonet_history"


@click.command()
@SOCKET_ARGUMENT
def monitor(socket_path: Path) -> None:
    """Type a monitor's commands: HMP as in QEMU, or QMP as JSON.

    SOCKET is a QMP socket, of `ballonet device --qmp` or of any QEMU.  Leave with Ctrl-D.
    """
    run(_converse(socket_path))


async def _converse(path: Path) -> None:
    async with connected(path) as vm:
        if sys.stdin.isatty():
            await _with_terminal(vm)
        else:
            for line in sys.stdin:
                await _obey(vm, line.strip())


async def _with_terminal(vm: QmpVm) -> None:
    from prompt_toolkit import PromptSession  # noqa: PLC0415 - only with a terminal
    from prompt_toolkit.completion import WordCompleter  # noqa: PLC0415
    from prompt_toolkit.history import FileHistory  # noqa: PLC0415

    words = await _words(vm)
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
        await _obey(vm, line.strip())


async def _words(vm: QmpVm) -> list[str]:
    """What can be completed: every command this monitor knows."""
    names = []
    for line in (await vm.human("help")).splitlines():
        names += line.split(" ", 1)[0].split("|")
    for line in (await vm.human("info help")).splitlines():
        names.append(" ".join(line.split()[:2]))
    return sorted(filter(None, names))


async def _obey(vm: QmpVm, line: str) -> None:
    if not line:
        return
    if line.startswith("{"):
        click.echo(json.dumps(await _qmp(vm, line), indent=2))
    else:
        click.echo(await vm.human(line), nl=False)


async def _qmp(vm: QmpVm, line: str) -> object:
    try:
        command = json.loads(line)
        reply: object = await vm.execute(command["execute"], **command.get("arguments", {}))
    except (ValueError, KeyError, TypeError) as error:
        return {"error": f"this is no QMP command: {error}"}
    except MonitorError as error:
        return {"error": str(error)}
    except asyncio.CancelledError:
        raise
    except Exception as error:  # the library's own errors, whatever they are
        return {"error": str(error)}
    return reply
