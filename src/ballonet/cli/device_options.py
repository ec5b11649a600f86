"""What a device is to be: the options of every verb that starts one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import click

from ballonet.cli.size import SizeType
from ballonet.device.balloon import BalloonSettings
from ballonet.virtio.features import RING_FEATURES, Feature
from ballonet.virtio.queues import QueueLayout

__all__ = ["balloon_settings", "device_options"]

FC = TypeVar("FC", bound=Callable[..., Any])

#: Option -> feature it offers; the names of those that QEMU's device has too are QEMU's.
_FEATURES: Final = {
    "must_tell_host": Feature.MUST_TELL_HOST,
    "deflate_on_oom": Feature.DEFLATE_ON_OOM,
    "free_page_hint": Feature.FREE_PAGE_HINT,
    "page_poison": Feature.PAGE_POISON,
    "free_page_reporting": Feature.PAGE_REPORTING,
    "packed": Feature.RING_PACKED,
    "in_order": Feature.IN_ORDER,
}


def _switch(name: str, text: str, *, default: bool) -> Callable[[FC], FC]:
    return click.option(f"--{name}/--no-{name}", default=default, show_default=True, help=text)


_OPTIONS: Final[tuple[Callable[[Any], Any], ...]] = (
    _switch("must-tell-host", "The guest asks before it uses a page again.", default=True),
    _switch(
        "deflate-on-oom",
        "The guest may take memory back when it runs out of it.",
        default=False,
    ),
    _switch("free-page-hint", "The guest names free pages to a migration.", default=True),
    _switch("page-poison", "The guest says what its free pages hold.", default=True),
    _switch("free-page-reporting", "The guest gives free memory back by itself.", default=False),
    _switch(
        "defer-discards",
        "Where the guest asks before it uses a page again, answer first and free memory later.",
        default=BalloonSettings().defers,
    ),
    _switch("packed", "Rings may be packed.", default=False),
    _switch("in-order", "Buffers are used in order, which the guest may count on.", default=False),
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
    offered = RING_FEATURES | Feature.STATS_VQ
    for name, bit in _FEATURES.items():
        if options[name]:
            offered |= bit
    return BalloonSettings(
        offered,
        QueueLayout(options["queue_layout"]),
        discards=not options["no_discard"],
        defers=bool(options["defer_discards"]),
        host_page_bytes=host_page_bytes,
    )
