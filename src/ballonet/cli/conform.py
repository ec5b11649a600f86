"""`ballonet conform`: whether a device, a driver or a host keeps to what its protocol says."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Final, Protocol, TypeVar

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ballonet.conform.checks import Check, Result, Verdict, run_checks
from ballonet.conform.device.qemu_rig import QemuRig
from ballonet.conform.device.rig import Rig
from ballonet.conform.device.suite import DEVICE_CHECKS
from ballonet.conform.device.vhost_user_rig import OwnRig, VhostUserRig
from ballonet.conform.driver.agreement import compare
from ballonet.conform.driver.guests import EmbeddedRig, LinuxRig
from ballonet.conform.driver.suite import DRIVER_CHECKS
from ballonet.conform.hyperv import suite as hyperv_suite
from ballonet.conform.hyperv.embedded_rig import EmbeddedRig as HypervEmbeddedRig
from ballonet.conform.hyperv.host_rig import OwnHostRig as HypervHostRig
from ballonet.conform.hyperv.linux_rig import LinuxRig as HypervLinuxRig
from ballonet.conform.reports import as_json, as_junit
from ballonet.conform.vmware import suite as vmware_suite
from ballonet.conform.vmware.embedded_rig import EmbeddedRig as VmwareEmbeddedRig
from ballonet.conform.vmware.host_rig import OwnHostRig as VmwareHostRig
from ballonet.conform.vmware.linux_rig import LinuxRig as VmwareLinuxRig
from ballonet.errors import SystemCallError
from ballonet.guests.kernel_package import find_kernel_package
from ballonet.guests.qtest_machine import require_qemu
from ballonet.memory.huge_pages import reserve_huge_pages

__all__ = ["conform"]


class _Named(Protocol):
    """Whatever is checked."""

    name: str


S = TypeVar("S", bound=_Named)
G = TypeVar("G", bound=_Named)

_HUGE_PAGES: Final = 64
_STYLES: Final = {Verdict.PASS: "green", Verdict.FAIL: "bold red", Verdict.NOT_APPLICABLE: "dim"}

_ONLY = click.option("--only", multiple=True, metavar="ID", help="Run this check; may be repeated.")
_JSON = click.option("--json", "as_json_text", is_flag=True, help="Print one JSON object.")


def _checked_place(_: click.Context, __: click.Parameter, path: Path | None) -> Path | None:
    """Refuse at once what could not be written after minutes of checks. Raises: BadParameter."""
    if path is not None and not os.access(path if path.exists() else path.parent, os.W_OK):
        raise click.BadParameter(f"{path} cannot be written")
    return path


_JUNIT = click.option(
    "--junit",
    type=click.Path(path_type=Path, dir_okay=False),
    callback=_checked_place,
    help="Write JUnit XML to this file.",
)


@click.group()
def conform() -> None:
    """Check a device or a driver against the specification, and for known mistakes.

    Each check is observed from outside. The exit code is 1 if one fails.
    """


@conform.command()
@click.option(
    "--vhost-user", "socket_path", type=click.Path(path_type=Path), help="A device at this socket."
)
@click.option("--qemu", is_flag=True, help="QEMU's own device; OPTIONS are further ones of it.")
@click.option(
    "--huge-pages",
    is_flag=True,
    help="Set 128 MiB of huge pages aside meanwhile, for the checks that need them; as root.",
)
@click.argument("options", nargs=-1)
@_ONLY
@_JSON
@_JUNIT
def device(
    socket_path: Path | None,
    options: tuple[str, ...],
    only: tuple[str, ...],
    junit: Path | None,
    *,
    qemu: bool,
    huge_pages: bool,
    as_json_text: bool,
) -> None:
    """Check a balloon device; ours, unless another is named."""
    if socket_path is not None and qemu:
        raise click.UsageError("give one of --vhost-user and --qemu")
    if options and not qemu:
        raise click.UsageError(f"unexpected argument {options[0]!r}; options are for --qemu")
    rig: Rig = OwnRig()
    if qemu:
        require_qemu()
        rig = QemuRig(*options)
    elif socket_path is not None:
        rig = VhostUserRig(socket_path)
    checks = _chosen(DEVICE_CHECKS, only)
    with reserve_huge_pages(_HUGE_PAGES) if huge_pages else nullcontext():
        results = _run(checks, rig, quiet=as_json_text)
    _finish(rig.name, results, junit, as_json_text=as_json_text)


@conform.command()
@click.option("--linux", "kind", flag_value="linux", help="A real kernel.")
@click.option("--embedded", "kind", flag_value="embedded", help="Our own kernel and driver.")
@_ONLY
@_JSON
@_JUNIT
def driver(
    kind: str | None, only: tuple[str, ...], junit: Path | None, *, as_json_text: bool
) -> None:
    """Check a balloon's driver with a device that can be slow, silent or odd."""
    if kind is None:
        raise click.UsageError("give one of --linux and --embedded")
    if kind == "linux":
        find_kernel_package()
    rig = LinuxRig() if kind == "linux" else EmbeddedRig()
    with rig.open():
        results = _run(_chosen(DRIVER_CHECKS, only), rig, quiet=as_json_text)
    _finish(f"the driver of {rig.name}", results, junit, as_json_text=as_json_text)


@conform.command()
@click.option("--linux", is_flag=True, help="The real vmw_balloon of Linux instead, in QEMU.")
@_ONLY
@_JSON
@_JUNIT
def vmware(only: tuple[str, ...], junit: Path | None, *, linux: bool, as_json_text: bool) -> None:
    """Check both ends of VMware's balloon, with guests and hosts that may be odd."""
    hosts, guests = vmware_suite.HOST_CHECKS, vmware_suite.GUEST_CHECKS
    if linux:
        real = VmwareLinuxRig()
        _check_real(guests, real, real.open, only, junit, as_json_text=as_json_text)
    else:
        ends = VmwareHostRig(), VmwareEmbeddedRig()
        _check_both(hosts, guests, ends, only, junit, as_json_text=as_json_text)


@conform.command()
@click.option("--linux", is_flag=True, help="The real hv_balloon of Linux instead, in QEMU.")
@_ONLY
@_JSON
@_JUNIT
def hyperv(only: tuple[str, ...], junit: Path | None, *, linux: bool, as_json_text: bool) -> None:
    """Check both ends of Hyper-V's Dynamic Memory, with guests and hosts that may be odd."""
    hosts, guests = hyperv_suite.HOST_CHECKS, hyperv_suite.GUEST_CHECKS
    if linux:
        real = HypervLinuxRig()
        _check_real(guests, real, real.open, only, junit, as_json_text=as_json_text)
    else:
        ends = HypervHostRig(), HypervEmbeddedRig()
        _check_both(hosts, guests, ends, only, junit, as_json_text=as_json_text)


@conform.command()
@click.option("--json", "as_json_text", is_flag=True, help="Print one JSON object a line.")
def agreement(*, as_json_text: bool) -> None:
    """Run one script on a real kernel and on ours, and compare what they did."""
    find_kernel_package()
    linux, embedded = LinuxRig(), EmbeddedRig()
    console = Console(highlight=False)
    table = Table(title="The same script on two kernels", title_justify="left")
    for heading in ("observation", "Linux", "embedded", "agree"):
        table.add_column(heading, overflow="fold")
    agrees = True
    with linux.open(), embedded.open():
        for row in compare(linux, embedded):
            agrees &= row.agrees
            if as_json_text:
                click.echo(json.dumps(asdict(row)))
            else:
                table.add_row(row.name, *map(_word, row.values), _word(row.agrees))
    if not as_json_text:
        console.print(table)
    if not agrees:
        sys.exit(1)


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _chosen(checks: Sequence[Check[S]], only: tuple[str, ...]) -> list[Check[S]]:
    _refuse_unknown(only, {check.id for check in checks})
    return [check for check in checks if not only or check.id in only]


def _refuse_unknown(only: tuple[str, ...], ids: set[str]) -> None:
    unknown = set(only) - ids
    if unknown:
        raise click.UsageError(f"--only: no check {', '.join(sorted(unknown))}")


def _check_real(
    checks: Sequence[Check[S]],
    rig: S,
    opening: Callable[[], AbstractContextManager[None]],
    only: tuple[str, ...],
    junit: Path | None,
    *,
    as_json_text: bool,
) -> None:
    """Check a guest that has to be started, which takes a while."""
    checks = _chosen(checks, only)
    with ExitStack() as stack:
        console = Console(stderr=True, highlight=False, quiet=as_json_text)
        with console.status("starting a guest ..."):
            stack.enter_context(opening())
        results = _run(checks, rig, quiet=as_json_text)
    _finish(rig.name, results, junit, as_json_text=as_json_text)


def _check_both(
    hosts: Sequence[Check[S]],
    guests: Sequence[Check[G]],
    ends: tuple[S, G],
    only: tuple[str, ...],
    junit: Path | None,
    *,
    as_json_text: bool,
) -> None:
    """Check a host, and then a guest."""
    _refuse_unknown(only, {check.id for check in hosts} | {check.id for check in guests})
    of_host = [check for check in hosts if not only or check.id in only]
    of_guest = [check for check in guests if not only or check.id in only]
    host, guest = ends
    results = _run(of_host, host, quiet=as_json_text) + _run(of_guest, guest, quiet=as_json_text)
    _finish(f"{host.name}, and {guest.name}", results, junit, as_json_text=as_json_text)


def _run(checks: Sequence[Check[S]], subject: S, *, quiet: bool) -> list[Result]:
    """Run checks under a progress display."""
    if not logging.getLogger().isEnabledFor(logging.INFO):
        logging.getLogger("ballonet").setLevel(logging.ERROR)  # complaints are what is wanted here
    console = Console(stderr=True, highlight=False, quiet=quiet)
    results: list[Result] = []
    with console.status("") as status:
        for i, check in enumerate(checks):
            status.update(f"{i + 1} of {len(checks)}: {check.id} {check.requirement}")
            results += run_checks([check], subject)
    return results


def _finish(
    subject: str, results: Sequence[Result], junit: Path | None, *, as_json_text: bool
) -> None:
    """Write and print; leaves with exit code 1 if a check failed. Raises: SystemCallError."""
    problem = None if junit is None else _write(junit, as_junit(subject, results) + "\n")
    if as_json_text:
        click.echo(as_json(subject, results))
    else:
        _print(subject, results)
    if problem is not None:  # not before the results are told
        raise problem
    if any(one.verdict is Verdict.FAIL for one in results):
        sys.exit(1)


def _write(path: Path, text: str) -> SystemCallError | None:
    """Write a file; returns what the system has against it."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        return SystemCallError("writing", str(path), error.strerror or str(error))
    return None


def _print(subject: str, results: Sequence[Result]) -> None:
    table = Table(title=f"{subject}", title_justify="left")
    for heading in ("check", "level", "requirement", "verdict", "what was seen"):
        table.add_column(heading, overflow="fold")
    for one in results:
        style = _STYLES[one.verdict]
        verdict = f"[{style}]{one.verdict.value}[/]"
        words = map(escape, (one.id, one.level.value, one.requirement))
        table.add_row(*words, verdict, escape(one.evidence))
    console = Console(highlight=False)
    console.print(table)
    counts = Counter(one.verdict for one in results)
    console.print(", ".join(f"{counts[verdict]} {verdict.value}" for verdict in Verdict))
