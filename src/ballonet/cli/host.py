"""`ballonet host`: balloon devices for many guests, and who they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.table import Table

from ballonet.cli.device_options import balloon_settings, device_options
from ballonet.cli.file_limit import raise_file_limit
from ballonet.cli.monitor_address import QEMU_VERSION_OPTION
from ballonet.cli.monitor_client import JSON_OPTION, run
from ballonet.cli.sandbox import SANDBOX_OPTION, make_sandbox
from ballonet.cli.size import SizeType
from ballonet.host.directory import CONTROL_NAME, own_directory
from ballonet.host.guest_list import MEMORY_BYTES_MAX, MEMORY_BYTES_MIN, check_name
from ballonet.host.host import Host
from ballonet.qmp.version import VERSIONS
from ballonet.runtime.sd_notify import sd_notify
from ballonet.units import format_bytes
from ballonet.vms.qmp_monitor import connected

__all__ = ["host"]

#: Four for each guest: two sockets, its worker and the way to ask it.
_FILES_WANTED: Final = 1 << 17
#: In a row of the host's monitor, in the order of the table.
_SIZES: Final = ("memory", "actual", "target")

_DIRECTORY: Final = click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="BALLONET_DIRECTORY",
    show_envvar=True,
    help="Where the host's sockets are; ballonet in the run-time directory, if not given.",
)


@click.group(invoke_without_command=True)
@_DIRECTORY
@device_options
@QEMU_VERSION_OPTION
@SANDBOX_OPTION
@click.pass_context
def host(
    ctx: click.Context,
    /,
    directory: Path | None,
    *,
    qemu_version: str,
    sandbox: bool,
    **options: Any,  # noqa: ANN401 - those of device_options
) -> None:
    """Serve balloon devices to many VMMs, each from a process of its own.

    Without a command, serve until Ctrl-C: at DIRECTORY/NAME.sock the device of a guest, at
    DIRECTORY/NAME.qmp its monitor.  Guests are added and removed meanwhile; they are there again
    when the host is started again.  Nobody but its owner may be able to write to the directory.
    """
    ctx.obj = directory
    if ctx.invoked_subcommand is not None:
        return
    settings, path = balloon_settings(options), _directory(directory)
    raise_file_limit(_FILES_WANTED)
    version = VERSIONS[qemu_version]
    server = Host(path, settings, make_sandbox() if sandbox else None, version)

    def ready(control: Path) -> None:
        click.echo(f"ballonet: listening at {control}", err=True)
        sd_notify("READY=1")

    try:
        server.run(ready)
    finally:
        sd_notify("STOPPING=1")


@host.command()
@click.argument("name")
@click.option(
    "--memory",
    "memory_bytes",
    type=SizeType(MEMORY_BYTES_MIN, MEMORY_BYTES_MAX),
    help="Memory of the guest for its monitor; what the VMM shares, if not given.",
)
@_DIRECTORY
@JSON_OPTION
@click.pass_obj
def add(
    of_group: Path | None,
    name: str,
    memory_bytes: int | None,
    directory: Path | None,
    *,
    as_json: bool,
) -> None:
    """Make a device for one more guest, and say where its sockets are."""
    check_name(name)
    arguments: dict[str, object] = {"name": name}
    if memory_bytes is not None:
        arguments["memory"] = memory_bytes
    row = run(_ask(_directory(directory or of_group), "x-ballonet-add-guest", arguments))
    click.echo(
        json.dumps(_named_with_units(row))
        if as_json
        else f"vhost-user: {row['socket']}\nmonitor:    {row['qmp']}"
    )


@host.command()
@click.argument("name")
@_DIRECTORY
@click.pass_obj
def remove(of_group: Path | None, name: str, directory: Path | None) -> None:
    """Hang up on a guest's VMM, and forget the guest."""
    run(_ask(_directory(directory or of_group), "x-ballonet-remove-guest", {"name": name}))


@host.command(name="list")
@_DIRECTORY
@JSON_OPTION
@click.pass_obj
def list_(of_group: Path | None, directory: Path | None, *, as_json: bool) -> None:
    """Show every guest and its balloon."""
    rows = run(_ask(_directory(directory or of_group), "x-ballonet-query-guests", {}))
    if as_json:
        click.echo(json.dumps([_named_with_units(row) for row in rows]))
        return
    table = Table("guest", "memory", "balloon", "target", "stage", "state")
    for row in rows:
        sizes = ["unknown" if row[key] is None else format_bytes(row[key]) for key in _SIZES]
        state = "no VMM" if row["connected"] is False else row["state"]
        table.add_row(row["name"], *sizes, row["stage"] or "unknown", state)
    Console(highlight=False).print(table if rows else "no guests; see `ballonet host add`")


def _named_with_units(row: dict[str, Any]) -> dict[str, Any]:
    """A row as programs read it."""
    return {f"{key}_bytes" if key in _SIZES else key: value for key, value in row.items()}


async def _ask(directory: Path, command: str, arguments: dict[str, object]) -> Any:  # noqa: ANN401 - what the command returns
    async with connected(directory / CONTROL_NAME) as monitor:
        return await monitor.execute(command, **arguments)


def _directory(given: Path | None) -> Path:
    """The directory of the host. Raises: SettingsError."""
    return own_directory() if given is None else given
