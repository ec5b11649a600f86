"""Where a monitor is served, written as for QEMU's -qmp: ``unix:PATH,server=on,wait=off``."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from ballonet.qmp.version import NEWEST, VERSIONS

__all__ = ["QEMU_VERSION_OPTION", "MonitorAddress"]

QEMU_VERSION_OPTION: Final = click.option(
    "--qemu-version",
    type=click.Choice(list(VERSIONS)),
    default=next(name for name, version in VERSIONS.items() if version is NEWEST),
    show_default=True,
    help="The release of QEMU that monitors speak as.",
)

_ALLOWED: Final = {"server": ("", "on"), "wait": ("off",), "nowait": ("",)}


class MonitorAddress(click.ParamType[Path]):
    """A Unix socket to listen at; the device never waits for a client."""

    name = "address"

    def convert(
        self,
        value: object,
        param: click.Parameter | None,  # noqa: ARG002 - click's signature
        ctx: click.Context | None,
    ) -> Path:
        """The socket's path; wrong use if it is another kind of address."""
        if isinstance(value, Path):
            return value
        kind, _, rest = str(value).partition(":")
        path, *options = rest.split(",")
        if kind != "unix" or not path:
            raise click.UsageError(
                f"--qmp: got {value!r}, expected unix:PATH,server=on,wait=off", ctx
            )
        for option in options:
            name, _, setting = option.partition("=")
            if setting not in _ALLOWED.get(name, ()):
                raise click.UsageError(
                    f"--qmp: got {option!r}, expected server=on and wait=off: the device listens,"
                    " and does not wait",
                    ctx,
                )
        return Path(path)
