"""What a device is to be: the options of every verb that starts one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import click

from ballonet.cli.size import SizeType
from ballonet.device.balloon import BalloonSettings
from ballonet.virtio.features import FEATURES, Feature
from ballonet.virtio.queues import QueueLayout

__all__ = ["balloon_settings", "device_options"]

FC = TypeVar("FC", bound=Callable[..., Any])


def _switch(name: str, text: str, *, default: bool) -> Callable[[FC], FC]:
    return click.option(f"--{name}/--no-{name}", default=default, show_default=True, help=text)


_OPTIONS: Final[tuple[Callable[[Any], Any], ...]] = (
    *(_switch(row.option, row.help, default=row.offered) for row in FEATURES if row.option),
    _switch(
        "defer-discards",
        "Where the guest asks before it uses a page again, answer first and free memory later.",
        default=BalloonSettings().defers,
    ),
    click.option(
        "--host-page-size",
        "host_page_bytes",
        type=SizeType(4096, 1 << 30),
        default=4096,
        help="Free memory in pages of at least this size, a power of two.",
    ),
    click.option(
        "--queue-layout",
        type=click.Choice(["dense", "fixed"]),
        default="dense",
        show_default=True,
        help="How queues are numbered: as Linux does, or as the specification says.",
    ),
    click.option("--no-discard", is_flag=True, help="Answer the guest, but keep its memory."),
)


def device_options(command: FC) -> FC:
    """Give a command all of them; `balloon_settings` makes sense of what it gets."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def balloon_settings(options: Mapping[str, Any]) -> BalloonSettings:
    """Settings of a device. Raises: click.UsageError."""
    host_page_bytes = int(options["host_page_bytes"])
    if host_page_bytes & (host_page_bytes - 1):
        raise click.UsageError(f"--host-page-size: {host_page_bytes} bytes are no power of two")
    offered = Feature(0)
    for row in FEATURES:
        is_offered = row.offered if row.option is None else options[row.option.replace("-", "_")]
        if is_offered:
            offered |= row.bit
    return BalloonSettings(
        offered,
        QueueLayout(options["queue_layout"]),
        discards=not options["no_discard"],
        defers=bool(options["defer_discards"]),
        host_page_bytes=host_page_bytes,
    )
