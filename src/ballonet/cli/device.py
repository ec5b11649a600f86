"""`ballonet device`: the vhost-user back-end program.

Follows the conventions of QEMU docs/interop/vhost-user.rst "Backend program conventions": one of
`--socket-path` and `--fd`, `--print-capabilities`, stays in the foreground, ends on SIGTERM.
"""

from __future__ import annotations

import json
import logging
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import click

from ballonet.cli.size import SizeType
from ballonet.device.balloon import BalloonSettings
from ballonet.units import bytes_to_pages
from ballonet.vhost_user.listener import adopt_socket, listening_socket
from ballonet.vhost_user.server import DeviceServer
from ballonet.virtio.features import RING_FEATURES, Feature
from ballonet.virtio.queues import QueueLayout

__all__ = ["device"]

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
@click.option("--deflate-on-oom", is_flag=True, help="Let the guest take memory back when short.")
@click.option(
    "--must-tell-host/--no-must-tell-host",
    default=True,
    show_default=True,
    help="Offer that the guest asks before it uses a page again.",
)
@click.option(
    "--queue-layout",
    type=click.Choice(["dense", "fixed"]),
    default="dense",
    show_default=True,
    help="How queues are numbered: as Linux does, or as the specification says.",
)
@click.option("--no-discard", is_flag=True, help="Answer the guest, but keep its memory.")
def device(
    socket_path: Path | None,
    fd: int | None,
    target_bytes: int,
    queue_layout: str,
    **switches: bool,
) -> None:
    """Serve a balloon device to a VMM over vhost-user.

    The VMM connects to --socket-path, or has connected the socket that --fd names.
    """
    if (socket_path is None) == (fd is None):
        raise click.UsageError("give one of --socket-path and --fd")
    settings = _settings(queue_layout, switches)
    with _socket(socket_path, fd) as (sock, listening):
        server = DeviceServer(settings, sock, listening=listening)
        server.set_target(bytes_to_pages(target_bytes))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: server.stop())
        logging.getLogger(__name__).info("serving; end with Ctrl-C")
        server.run()


def _settings(queue_layout: str, switches: dict[str, bool]) -> BalloonSettings:
    offered = RING_FEATURES | Feature.STATS_VQ
    if switches["must_tell_host"]:
        offered |= Feature.MUST_TELL_HOST
    if switches["deflate_on_oom"]:
        offered |= Feature.DEFLATE_ON_OOM
    return BalloonSettings(offered, QueueLayout(queue_layout), discards=not switches["no_discard"])


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
