"""`ballonet set`: how much memory a guest is to keep, and an honest word on how it went."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from ballonet.cli.monitor_client import JSON_OPTION, SOCKET_ARGUMENT, run
from ballonet.cli.seconds import SecondsType
from ballonet.cli.size import SizeType
from ballonet.errors import GuestError
from ballonet.units import format_bytes
from ballonet.vms.change import Change, Verdict
from ballonet.vms.change import Progress as ChangeProgress
from ballonet.vms.qmp_vm import QmpVm, connected

__all__ = ["set"]

_LOOK_S: Final = 0.2


@click.command()
@SOCKET_ARGUMENT
@click.argument("size", type=SizeType(1, 1 << 62))
@click.option("--wait", is_flag=True, help="Wait until the guest has followed, and show how.")
@click.option(
    "--deadline",
    "deadline_s",
    type=SecondsType(),
    default="30s",
    show_default=True,
    help="How long to wait at most.",
)
@JSON_OPTION
def set(  # noqa: A001 - the verb's name
    socket_path: Path, size: int, *, wait: bool, deadline_s: float, as_json: bool
) -> None:
    """Set how much memory the guest keeps; the rest goes into its balloon.

    SOCKET is a QMP socket, of `ballonet device --qmp` or of any QEMU.  With --wait the exit code is
    1 unless the size was reached.
    """
    console = Console(stderr=as_json, highlight=False)
    result = run(_set(socket_path, size, deadline_s if wait else None, console))
    if as_json:
        click.echo(json.dumps(result))
    else:
        console.print(_in_words(result))
    if wait and result["verdict"] != Verdict.REACHED.name.lower():
        raise GuestError(f"the guest keeps {format_bytes(int(str(result['actual'])))}")


async def _set(
    path: Path, size: int, deadline_s: float | None, console: Console
) -> dict[str, object]:
    async with connected(path) as vm:
        ram = await vm.ram_bytes()
        wanted = size if ram is None else min(size, ram)
        start = await vm.logical_bytes()
        await vm.set_logical_bytes(size)
        result: dict[str, object] = {"wanted": wanted, "before": start, "actual": start}
        if deadline_s is None:
            return result | {"verdict": "asked"}
        return result | await _follow(
            vm, Change(start, wanted, time.monotonic()), deadline_s, console
        )


async def _follow(
    vm: QmpVm, change: Change, deadline_s: float, console: Console
) -> dict[str, object]:
    """Watch a change until its verdict."""
    begun_s = time.monotonic()
    number = (await vm.info()).get("request", {}).get("number")
    with _display(console) as show:
        while True:
            now_bytes, info = await vm.logical_bytes(), await vm.info()
            now_s = time.monotonic()
            progress = change.see(now_bytes, now_s)
            show(progress)
            verdict = change.verdict(
                now_s,
                deadline_s=begun_s + deadline_s,
                superseded=info.get("request", {}).get("number") != number,
                has_driver=await vm.has_driver(),
            )
            if verdict is not None:
                return {
                    "actual": now_bytes,
                    "seconds": round(now_s - begun_s, 3),
                    "verdict": verdict.name.lower(),
                    "why": info.get("why", verdict.value),
                }
            await asyncio.sleep(_LOOK_S)


@contextmanager
def _display(console: Console) -> Iterator[Callable[[ChangeProgress], None]]:
    columns = (
        TextColumn("the guest keeps {task.fields[size]}"),
        BarColumn(),
        TextColumn("{task.fields[speed]}"),
    )
    off = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=off) as progress:
        task = progress.add_task("", total=1.0, size="", speed="")

        def show(now: ChangeProgress) -> None:
            eta = "" if now.eta_s is None else f", {now.eta_s:.0f} s left"
            progress.update(
                task,
                completed=now.fraction,
                size=format_bytes(now.now_bytes),
                speed=f"{format_bytes(int(now.bytes_per_s))}/s{eta}",
            )

        yield show


def _in_words(result: dict[str, object]) -> str:
    wanted, actual = (
        format_bytes(int(str(result["wanted"]))),
        format_bytes(int(str(result["actual"]))),
    )
    match result["verdict"]:
        case "asked":
            return f"asked for {wanted}; the guest keeps {actual} now"
        case "reached":
            return f"reached: the guest keeps {actual}, after {result['seconds']} s"
        case verdict:
            return f"{verdict}: {wanted} were asked for, the guest keeps {actual}; {result['why']}"
