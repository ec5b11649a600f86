"""What this user's agent answers.

Units: seconds.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any, Final

import click

from ballonet.agent.only_agent import CONTROL_NAME
from ballonet.errors import BallonetError
from ballonet.host.directory import own_directory
from ballonet.vms.qmp_monitor import connected

__all__ = ["AGENT_DIRECTORY_OPTION", "answer_of_agent", "ask_agent"]

AGENT_DIRECTORY_OPTION: Final = click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="BALLONET_DIRECTORY",
    show_envvar=True,
    help="The agent's; ballonet in the run-time directory, if not given.",
)
#: It answers at once, or not in time for who does without.
_ASK_S: Final = 0.5


async def answer_of_agent(directory: Path | None, command: str, **arguments: object) -> Any:  # noqa: ANN401 - JSON
    """Its answer. Raises: ClickException, if there is none; SettingsError, MonitorError."""
    path = (directory or own_directory()) / CONTROL_NAME
    if not path.is_socket():
        raise click.ClickException(
            f"no agent runs here: there is no {path}; `ballonet agent` starts one"
        )
    async with connected(path) as monitor:
        return await monitor.execute(command, **arguments)


async def ask_agent(command: str, **arguments: object) -> Any:  # noqa: ANN401 - JSON
    """Its answer; None where no agent of this user runs, or answers."""
    given = os.environ.get("BALLONET_DIRECTORY")
    try:
        async with asyncio.timeout(_ASK_S):
            return await answer_of_agent(Path(given) if given else None, command, **arguments)
    except (BallonetError, click.ClickException, TimeoutError):
        return None
