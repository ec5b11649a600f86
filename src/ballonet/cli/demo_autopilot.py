"""`ballonet demo autopilot`: six real kernels want more than there is, and what comes of it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import click
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ballonet.agent.only_agent import CONTROL_NAME as AGENT_NAME
from ballonet.cli.size import SizeType
from ballonet.errors import BallonetError, GuestError
from ballonet.guests.linux import LinuxGuest, LinuxGuestSettings
from ballonet.guests.memload import Load, Wish, build_memload, deficit_s, reliefs
from ballonet.guests.processes import PrivateDirectory
from ballonet.host.directory import CONTROL_NAME
from ballonet.units import format_bytes
from ballonet.vms.qmp_monitor import connected

__all__ = ["autopilot"]

_MIB: Final = 1 << 20
_NAMES: Final = ("web", "shop", "build", "batch", "cache", "idle")
_SECONDS: Final = 20.0
_SETTLE_S: Final = 3.0
_LOOK_S: Final = 0.5
_BEGUN_S: Final = 20.0
_BAR: Final = 36
#: What each wants, in shares of its memory: from second to second, and how fast (MiB/s).
_WISHES: Final[Mapping[str, Sequence[tuple[float, float, float]]]] = {
    "web": ((0, 0.10, 40), (6, 0.16, 20), (12, 0.20, 20)),
    "shop": ((0, 0.08, 40), (2, 0.60, 20), (11, 0.08, 40)),
    "build": ((0, 0.08, 40), (3, 0.25, 40), (6, 0.10, 40), (9, 0.30, 40), (13, 0.08, 40)),
    "batch": ((0, 0.08, 40), (10, 0.60, 20), (19, 0.08, 40)),
    "cache": ((0, 0.15, 40),),
    "idle": ((0, 0.04, 40),),
}
_BURST_SHARE: Final = 0.5


@dataclass(frozen=True, slots=True)
class PartFigures:
    """What came of one way to divide the memory."""

    programs_killed: int
    deficit_s: float  #: the missing part of what programs wanted, times the time
    bursts: int
    bursts_served: int
    latest_s: float | None  #: a burst had all it wanted so much later than it could have
    most_bytes: int  #: that all guests kept together


@dataclass(frozen=True, slots=True)
class _Fleet:
    directory: Path
    memory_bytes: int
    budget_bytes: int
    guests: Sequence[LinuxGuest]
    loads: Sequence[Load]


@click.command()
@click.option(
    "--memory",
    "memory_bytes",
    type=SizeType(128 * _MIB, 4096 * _MIB),
    default="256M",
    show_default=True,
    help="Memory of each guest.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one JSON object.")
def autopilot(memory_bytes: int, *, as_json: bool) -> None:
    """Six real kernels share half of their memory: by equal parts, and by the autopilot.

    Their programs want memory at different times.  Both times they want the same; what is shown is
    what each uses, what it keeps, and the newest decision.  Needs gcc, for the guests' program.
    """
    console = Console(stderr=as_json, highlight=False)
    budget_bytes = len(_NAMES) * memory_bytes // 2
    console.print(
        f"Starting {len(_NAMES)} kernels of {format_bytes(memory_bytes)}, which may keep"
        f" {format_bytes(budget_bytes)} together ..."
    )
    with _fleet(memory_bytes, budget_bytes) as fleet:
        console.print(f"Linux {fleet.guests[0].release} is up six times; each gets the same part:")
        _divide_equally(fleet)
        equal = _play(fleet, console, None)
        console.print("The same again, by the autopilot:")
        with _agent(fleet) as agent:
            ours = _play(fleet, console, agent)
    parts = {"equal parts": equal, "autopilot": ours}
    if as_json:
        click.echo(json.dumps({name: asdict(one) for name, one in parts.items()}, indent=2))
    else:
        console.print(_result(parts, budget_bytes))


@contextmanager
def _fleet(memory_bytes: int, budget_bytes: int) -> Iterator[_Fleet]:
    """A host of ours, kernels behind it, and what their programs will want. Raises: GuestError."""
    with ExitStack() as stack:
        root = stack.enter_context(PrivateDirectory("ballonet-", mark="{}/host"))
        program = build_memload(root)
        directory = root / "host"
        command = [sys.executable, "-m", "ballonet", "host", "--directory", str(directory)]
        stack.enter_context(_program(command, root / "host.log", "listening"))
        for name in _NAMES:
            _ask(directory / CONTROL_NAME, "x-ballonet-add-guest", name=name)
        guests = [
            LinuxGuest(LinuxGuestSettings(memory_bytes, socket_path=directory / f"{name}.sock"))
            for name in _NAMES
        ]
        for guest in guests:
            stack.callback(guest.stop)
        with ThreadPoolExecutor(len(guests)) as together:
            list(together.map(lambda guest: guest.start(), guests))
        loads = [
            Load(root / name, program, _wishes(name, memory_bytes), _SECONDS) for name in _NAMES
        ]
        yield _Fleet(directory, memory_bytes, budget_bytes, guests, loads)


def _wishes(name: str, memory_bytes: int) -> list[Wish]:
    return [
        Wish(at_s, share * memory_bytes / _MIB, mib_per_s)
        for at_s, share, mib_per_s in _WISHES[name]
    ]


@contextmanager
def _program(command: Sequence[str], log: Path, ready: str) -> Iterator[None]:
    """A program of ours, once it says that it is ready. Raises: GuestError."""
    with log.open("wb") as output, subprocess.Popen(command, stderr=output) as process:
        try:
            end_s = time.monotonic() + _BEGUN_S
            while ready not in log.read_text(errors="replace"):
                if process.poll() is not None or time.monotonic() > end_s:
                    raise GuestError(f"{command[3]}: {log.read_text(errors='replace')[-300:]}")
                time.sleep(0.05)
            yield
        finally:
            process.terminate()


@contextmanager
def _agent(fleet: _Fleet) -> Iterator[Path]:
    """The agent with its autopilot; where it is asked. Raises: GuestError."""
    path = fleet.directory.with_name("ballonet.toml")
    names = ", ".join(f'"ballonet:{name}"' for name in _NAMES)
    path.write_text(
        f"[agent]\nperiod_s = 1.0\npoll_interval_s = 1\nmatch = [{names}]\n"
        '[metrics]\nlisten = "127.0.0.1:0"\n'
        f'[autopilot]\nenable = true\nbudget = "{fleet.budget_bytes}B"\n'
    )
    command = [sys.executable, "-m", "ballonet", "agent", "--config", str(path)]
    log = fleet.directory.with_name("agent.log")
    with _program([*command, "--directory", str(fleet.directory)], log, "metrics are at"):
        yield fleet.directory / AGENT_NAME


def _divide_equally(fleet: _Fleet) -> None:
    for name in _NAMES:
        part = fleet.budget_bytes // len(_NAMES)
        _ask(fleet.directory / f"{name}.qmp", "balloon", value=part)


def _play(fleet: _Fleet, console: Console, agent: Path | None) -> PartFigures:
    """Have all programs do the same as ever; returns what came of it."""
    with Live(console=console, refresh_per_second=4, transient=False) as live:
        rows = _looked(fleet, agent, live.update, _SETTLE_S)
        for guest, load in zip(fleet.guests, fleet.loads, strict=True):
            load.begin(guest)
        rows += _looked(fleet, agent, live.update, _SECONDS + 2 * _LOOK_S)
    console.print()
    reports = [load.report() for load in fleet.loads]
    late = [
        one
        for load, report in zip(fleet.loads, reports, strict=True)
        for one in reliefs(load.wishes, report, _BURST_SHARE * fleet.memory_bytes / _MIB)
    ]
    return PartFigures(
        int(sum(report[-1]["kills"] for report in reports if report)),
        round(sum(deficit_s(report) for report in reports), 1),
        len(late),
        sum(one is not None for one in late),
        max((round(one, 1) for one in late if one is not None), default=None),
        max(rows[len(rows) // 4 :], default=0),
    )


def _looked(
    fleet: _Fleet, agent: Path | None, show: Callable[[Group], None], seconds: float
) -> list[int]:
    """What all keep together, look after look, each of which is shown."""
    sums, end_s = [], time.monotonic() + seconds
    while time.monotonic() < end_s:
        rows = {
            row["name"]: row
            for row in _ask(fleet.directory / CONTROL_NAME, "x-ballonet-query-guests")
        }
        kept = {name: _kept(rows[name]) for name in _NAMES}
        sums.append(sum(kept.values()))
        show(_picture(fleet, kept, _because(agent)))
        time.sleep(_LOOK_S)
    return sums


def _kept(row: Mapping[str, Any]) -> int:
    return int(row["memory"] or 0) - int(row["actual"] or 0)


def _because(agent: Path | None) -> Mapping[str, str]:
    """The newest decision for each guest, in words."""
    if agent is None:
        return {}
    try:
        told = _ask(agent, "x-ballonet-query-autopilot")
    except BallonetError:
        return {}
    return {row["vm"].partition(":")[2]: row["because"] for row in told["vms"]}


def _picture(fleet: _Fleet, kept: Mapping[str, int], because: Mapping[str, str]) -> Group:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1))
    for name, load in zip(_NAMES, fleet.loads, strict=True):
        report = load.report()
        has = int(report[-1]["has"]) * _MIB if report else 0
        wants = int(report[-1]["wants"]) * _MIB if report else 0
        kills = int(report[-1]["kills"]) if report else 0
        words = f"{kills} killed" if kills else because.get(name, "")
        table.add_row(name, _bar(has, wants, kept[name], fleet.memory_bytes), Text(words, "dim"))
    together = f"{format_bytes(sum(kept.values()))} of {format_bytes(fleet.budget_bytes)} together"
    return Group(table, Text(together, "dim"))


def _bar(has: int, wants: int, kept: int, memory_bytes: int) -> Text:
    """What its programs have, what they lack, what it keeps beside; the rest is the host's."""
    columns = [min(_BAR, round(one * _BAR / memory_bytes)) for one in (has, wants, kept)]
    had, wanted, keeps = columns
    bar = Text("█" * had, "cyan")
    bar.append("▒" * max(0, wanted - had), "red")
    bar.append("░" * max(0, keeps - max(had, wanted)), "green")
    return bar.append("·" * (_BAR - len(bar.plain)), "dim")


def _result(parts: Mapping[str, PartFigures], budget_bytes: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("")
    for name in parts:
        table.add_column(name, justify="right")
    rows: Sequence[tuple[str, Callable[[PartFigures], str]]] = (
        ("programs killed for want of memory", lambda one: str(one.programs_killed)),
        ("missing part of what they wanted, times seconds", lambda one: str(one.deficit_s)),
        ("bursts that had all they wanted", lambda one: f"{one.bursts_served} of {one.bursts}"),
        (
            "... so many seconds late at most",
            lambda one: "never" if one.latest_s is None else str(one.latest_s),
        ),
        (
            f"most that all kept, of {format_bytes(budget_bytes)}",
            lambda one: format_bytes(one.most_bytes),
        ),
    )
    for title, text in rows:
        table.add_row(title, *(text(one) for one in parts.values()))
    return table


def _ask(path: Path, command: str, **arguments: object) -> Any:  # noqa: ANN401 - what the command returns
    """Raises: MonitorError."""

    async def ask() -> Any:  # noqa: ANN401
        async with connected(path) as monitor:
            return await monitor.execute(command, **arguments)

    return asyncio.run(ask())
