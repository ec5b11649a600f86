"""`ballonet host`: balloon devices for many guests in one process, and who they are."""

from __future__ import annotations

import json
import logging
import os
import signal
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.table import Table

from ballonet.cli.device_options import balloon_settings, device_options
from ballonet.cli.file_limit import raise_file_limit
from ballonet.cli.monitor_client import JSON_OPTION, run
from ballonet.cli.size import SizeType
from ballonet.errors import SettingsError
from ballonet.host.guest_list import check_name
from ballonet.host.host import CONTROL_NAME, Host
from ballonet.units import format_bytes
from ballonet.vms.qmp_vm import connected

__all__ = ["host"]

#: A guest needs two sockets, and thirteen descriptors more once its VMM has connected.
_FILES_WANTED: Final = 1 << 17

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
@click.pass_context
def host(ctx: click.Context, /, directory: Path | None, **options: Any) -> None:  # noqa: ANN401 - those of device_options
    """Serve balloon devices to many VMMs from one process.

    Without a command, serve until Ctrl-C: at DIRECTORY/NAME.sock the device of a guest, at
    DIRECTORY/NAME.qmp its monitor.  Guests are added and removed meanwhile; they are there again
    when the host is started again.
    """
    ctx.obj = directory
    if ctx.invoked_subcommand is not None:
        return
    settings, path = balloon_settings(options), _directory(directory)
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(
            "--directory", path, f"one that can be made: {error.strerror}"
        ) from error
    raise_file_limit(_FILES_WANTED)
    server = Host(path, settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop())
    logging.getLogger(__name__).info("the host's directory is %s", path)
    server.run()


@host.command()
@click.argument("name")
@click.option(
    "--memory",
    "memory_bytes",
    type=SizeType(1 << 20, 1 << 44),
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
        json.dumps(row) if as_json else f"vhost-user: {row['socket']}\nmonitor:    {row['qmp']}"
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
        click.echo(json.dumps(rows))
        return
    table = Table("guest", "memory", "balloon", "target", "stage")
    for row in rows:
        memory = "no VMM" if row["memory"] is None else format_bytes(row["memory"])
        actual, target = format_bytes(row["actual"]), format_bytes(row["target"])
        table.add_row(row["name"], memory, actual, target, row["stage"])
    Console(highlight=False).print(table if rows else "no guests; see `ballonet host add`")


async def _ask(directory: Path, command: str, arguments: dict[str, object]) -> Any:  # noqa: ANN401 - what the command returns
    async with connected(directory / CONTROL_NAME) as monitor:
        return await monitor.execute(command, **arguments)


def _directory(given: Path | None) -> Path:
    """The directory of the host: what was given, or the one for this user."""
    if given is not None:
        return given
    run_time = os.environ.get("XDG_RUNTIME_DIR") or ("/run" if os.geteuid() == 0 else "/tmp")  # noqa: S108 - made by us, 0700
    return Path(run_time) / "ballonet"
