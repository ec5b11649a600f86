"""`ballonet agent`: one process that watches every VM of a host, and serves metrics of them."""

from __future__ import annotations

import logging
import os
from functools import partial
from pathlib import Path
from typing import Final

import click

from ballonet.cli.file_limit import raise_file_limit
from ballonet.host.directory import default_directory

__all__ = ["agent"]

#: For each machine a connection, and some for finding out what it is.
_FILES_WANTED: Final = 1 << 14


@click.command()
@click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path),
    help="Its configuration; /etc/ballonet/ballonet.toml if that is there and none is given.",
)
@click.option("--check", is_flag=True, help="Say what is set, or what is wrong, and end.")
@click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="BALLONET_DIRECTORY",
    show_envvar=True,
    help="In which no other agent can be; ballonet in the run-time directory, if not given.",
)
@click.option(
    "--web",
    metavar="ADDRESS",
    help="Serve the page there, as in 127.0.0.1:9178, whatever [web] says; needs ballonet[web].",
)
def agent(path: Path | None, directory: Path | None, web: str | None, *, check: bool) -> None:
    """Watch every VM of this host until Ctrl-C, and serve metrics for Prometheus.

    Changes nothing of any VM but how often guests that nobody asks for statistics are asked, which
    it puts back.  HUP has it read its configuration again.
    """
    try:
        from ballonet.agent.agent import Agent  # noqa: PLC0415 - an extra
        from ballonet.agent.configuration import (  # noqa: PLC0415
            read_configuration,
            show_configuration,
        )
    except ModuleNotFoundError as error:
        if error.name not in ("msgspec", "prometheus_client"):
            raise
        raise click.ClickException(
            f"{error.name} is not installed, which `ballonet agent` needs:"
            " pip install 'ballonet[agent]'"
        ) from error
    if check:
        for line in show_configuration(read_configuration(path, web)):
            click.echo(line)
        return
    log = logging.getLogger("ballonet.agent")
    if log.getEffectiveLevel() > logging.INFO:  # who comes and goes is said without -v
        log.setLevel(logging.INFO)
    raise_file_limit(_FILES_WANTED)
    place = directory or default_directory(os.environ.get("XDG_RUNTIME_DIR"), os.geteuid())
    Agent(partial(read_configuration, path, web), place).run(
        lambda url: click.echo(f"ballonet: metrics are at {url}", err=True)
    )
