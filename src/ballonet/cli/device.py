"""`ballonet device`: the vhost-user back-end program, and hosts of other balloons.

With virtio's balloon it follows the conventions of QEMU docs/interop/vhost-user.rst "Backend
program conventions": one of `--socket-path` and `--fd`, `--print-capabilities`, stays in the
foreground, ends on SIGTERM.
Not here: what is special of the other balloons (sibling_device.py).
"""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import click

from ballonet.cli.device_options import balloon_settings, device_options
from ballonet.cli.monitor_address import QEMU_VERSION_OPTION, MonitorAddress
from ballonet.cli.sandbox import SANDBOX_OPTION, make_sandbox
from ballonet.cli.sibling_device import check_options, make_sibling, sibling_options
from ballonet.cli.size import SizeType
from ballonet.control.control import Control
from ballonet.control.device_control import DeviceControl
from ballonet.errors import SettingsError
from ballonet.monitor.serving import monitoring
from ballonet.qmp.version import VERSIONS
from ballonet.runtime.sd_listen import take_listen_fds
from ballonet.runtime.sd_notify import sd_notify
from ballonet.siblings.host_server import SiblingServer
from ballonet.siblings.sibling_control import SiblingControl
from ballonet.trace.recording import recording
from ballonet.trace.writer import TraceWriter
from ballonet.units import bytes_to_pages
from ballonet.vhost_user.listener import adopt_socket, listening_socket
from ballonet.vhost_user.server import DeviceServer, make_server

__all__ = ["device"]

#: Of the sockets that systemd makes, what a monitor's is named.
_QMP_NAME: Final = "qmp"
#: num_pages is a 32-bit count of 4 KiB pages.
_TARGET_BYTES_MAX: Final = (2**32 - 1) << 12


def _print_capabilities(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:  # noqa: FBT001 - click's signature
    if wanted:
        click.echo(json.dumps({"type": "balloon"}))
        ctx.exit()


class _CapabilitiesFirst(click.Command):
    """--print-capabilities ignores all other options, wrong ones too."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--print-capabilities" in args:
            args = ["--print-capabilities"]
        return super().parse_args(ctx, args)


@click.command(cls=_CapabilitiesFirst)
@click.option("--socket-path", type=click.Path(path_type=Path), help="Listen at this path.")
@click.option("--fd", type=click.IntRange(0, 2**31 - 1), help="Use this inherited Unix socket.")
@click.option(
    "--print-capabilities",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_capabilities,
    help="Print what this program is as JSON, and end.",
)
@click.option(
    "--target",
    "target_bytes",
    type=SizeType(0, _TARGET_BYTES_MAX),
    default=0,
    show_default=True,
    help="Memory to ask of the guest, in the balloon.",
)
@sibling_options
@device_options
@click.option(
    "--report-limit",
    "report_bytes_per_s",
    type=SizeType(0, 1 << 50),
    help="Discard at most so much of what the guest reports, per second; 0 keeps it all.",
)
@click.option(
    "--qmp",
    "monitors",
    multiple=True,
    type=MonitorAddress(),
    metavar="unix:PATH,server=on,wait=off",
    help="Serve QEMU's monitor protocol at this socket; may be repeated.",
)
@click.option("--id", "balloon_id", default="balloon0", help="Name of the balloon in the monitor.")
@click.option(
    "--memory",
    "memory_bytes",
    type=SizeType(1 << 20, _TARGET_BYTES_MAX),
    help="Memory of the guest for the monitor; what the VMM shares, if not given.",
)
@QEMU_VERSION_OPTION
@click.option(
    "--trace",
    "trace_path",
    type=click.Path(path_type=Path),
    help="Record the conversation in this file; see `ballonet trace`.",
)
@click.option(
    "--trace-limit",
    "trace_limit_bytes",
    type=SizeType(1 << 10, 1 << 50),
    default="1G",
    show_default=True,
    help="End the record at this size.",
)
@click.option(
    "--state-file",
    "state_path",
    type=click.Path(path_type=Path),
    help="Keep the target here, so that a device started anew goes on where this one stopped. "
    "A file that holds something else is kept as PATH.bad.",
)
@SANDBOX_OPTION
def device(
    socket_path: Path | None,
    fd: int | None,
    target_bytes: int,
    report_bytes_per_s: int | None,
    monitors: tuple[Path, ...],
    trace_path: Path | None,
    trace_limit_bytes: int,
    state_path: Path | None,
    *,
    sandbox: bool,
    **options: Any,  # noqa: ANN401 - of the device and its monitors
) -> None:
    """Serve a balloon device to a VMM over vhost-user.

    The VMM connects to --socket-path, or has connected the socket that --fd names; without either
    it is the socket that systemd has made, and monitors are those that it names `qmp`.  With
    --balloon it is a host of another protocol, and `ballonet guest embedded` connects.
    """
    check_options(click.get_current_context())
    inherited = take_listen_fds(os.environ)
    monitor_fds = [number for number, name in inherited.items() if name == _QMP_NAME]
    if socket_path is None and fd is None:
        fd = next((number for number in inherited if number not in monitor_fds), None)
    if (socket_path is None) == (fd is None):
        raise click.UsageError("give one of --socket-path and --fd")
    with _socket(socket_path, fd) as (sock, listening), ExitStack() as stack:
        sockets = [stack.enter_context(listening_socket(path)) for path in monitors]
        sockets += [stack.enter_context(_inherited_monitor(number)) for number in monitor_fds]
        server, control = _make(options, sock, listening=listening, state_path=state_path)
        if trace_path is not None:
            writer = TraceWriter(trace_path, trace_limit_bytes)
            stack.enter_context(recording(control, writer, server.add_timed))
        if target_bytes:
            control.set_target(bytes_to_pages(target_bytes))
        if isinstance(control, DeviceControl):
            control.set_report_rate(report_bytes_per_s)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: server.stop())
        if sandbox:
            make_sandbox(trace_limit_bytes).enter()
        if sockets:
            stack.enter_context(_monitoring(control, sockets, options))
        for path in monitors if socket_path is None else (socket_path, *monitors):
            click.echo(f"ballonet: listening at {path}", err=True)
        sd_notify("READY=1")
        try:
            server.run()
        finally:
            sd_notify("STOPPING=1")


def _make(
    options: dict[str, Any], sock: socket.socket, *, listening: bool, state_path: Path | None
) -> tuple[DeviceServer, DeviceControl] | tuple[SiblingServer, SiblingControl]:
    """What serves guests, and how it is controlled. Raises: BallonetError."""
    if options["balloon"] != "virtio":
        return make_sibling(options, sock, listening=listening)
    settings = balloon_settings(options)
    server = make_server(settings, sock, listening=listening, state_path=state_path)
    return server, DeviceControl(server)


def _monitoring(
    control: Control, sockets: list[socket.socket], options: dict[str, Any]
) -> AbstractContextManager[None]:
    return monitoring(
        control,
        sockets,
        balloon_id=options["balloon_id"],
        memory_bytes=options["memory_bytes"],
        version=VERSIONS[options["qemu_version"]],
    )


def _inherited_monitor(fd: int) -> socket.socket:
    """Raises: SettingsError, if nobody could connect to it."""
    sock, listening = adopt_socket(fd)
    if not listening:
        raise SettingsError(f"LISTEN_FDS, {_QMP_NAME}", fd, "a socket that listens")
    return sock


@contextmanager
def _socket(path: Path | None, fd: int | None) -> Iterator[tuple[socket.socket, bool]]:
    """The socket to serve, and whether it listens. Raises: ListenError, SettingsError."""
    if path is not None:
        with listening_socket(path) as sock:
            yield sock, True
    elif fd is not None:
        sock, listening = adopt_socket(fd)
        with sock:
            yield sock, listening
