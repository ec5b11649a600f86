"""What the verbs that talk to a monitor have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final, TypeVar

import click

__all__ = ["JSON_OPTION", "SOCKET_ARGUMENT", "run"]

T = TypeVar("T")

SOCKET_ARGUMENT: Final = click.argument(
    "socket_path", metavar="SOCKET", type=click.Path(path_type=Path)
)
JSON_OPTION: Final = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a client to its end."""
    return asyncio.run(work)
