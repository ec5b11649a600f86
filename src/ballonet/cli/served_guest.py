"""What `ballonet guest hyperv` and `vmware` have in common: monitors, a record, and their end."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from ballonet.cli.monitor_address import QEMU_VERSION_OPTION, MonitorAddress
from ballonet.monitor.serving import monitoring
from ballonet.qmp.version import VERSIONS
from ballonet.siblings.sibling_control import SiblingControl
from ballonet.trace.recording import recording
from ballonet.trace.writer import TraceWriter

__all__ = ["serve_guest", "serving_options"]

FC = TypeVar("FC", bound=Callable[..., Any])

_TRACE_BYTES_MAX: Final = 1 << 30
_OPTIONS: Final[tuple[Callable[[Any], Any], ...]] = (
    click.option(
        "--qmp",
        "monitors",
        multiple=True,
        type=MonitorAddress(),
        metavar="unix:PATH,server=on,wait=off",
        help="Serve QEMU's monitor protocol at this socket; may be repeated.",
    ),
    QEMU_VERSION_OPTION,
    click.option(
        "--trace",
        "trace_path",
        type=click.Path(path_type=Path),
        help="Record the conversation in this file; see `ballonet trace`.",
    ),
)


def serving_options(command: FC) -> FC:
    """Give a command the options of whoever serves a balloon."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def serve_guest(
    control: SiblingControl,
    release: str,
    sockets: Sequence[socket.socket],
    qemu_version: str,
    trace_path: Path | None,
) -> None:
    """Serve until a signal comes, or the guest is gone; `release`: of its kernel.

    `sockets`: those that monitors listen on.  Raises: BallonetError.
    """
    server = control.server
    with ExitStack() as stack:
        if trace_path is not None:
            writer = TraceWriter(trace_path, _TRACE_BYTES_MAX)
            stack.enter_context(recording(control, writer, server.add_timed))
        if sockets:
            version = VERSIONS[qemu_version]
            stack.enter_context(monitoring(control, sockets, version=version))
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: server.stop())
        click.echo(f"ballonet: Linux {release} is served", err=True)
        server.run()
