"""`ballonet device --balloon hyperv|vmware`: a host of another protocol than virtio's.

It is served to the embedded guest with the same `--balloon`, over a socket of ours.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from functools import reduce
from operator import or_
from typing import Any, Final, TypeVar

import click
from click.core import ParameterSource

from ballonet.balloon.clock import NS_PER_S
from ballonet.cli.seconds import SecondsType
from ballonet.hyperv.settings import HypervHostSettings
from ballonet.runtime.system_clock import SystemClock
from ballonet.siblings.conversation import Conversation
from ballonet.siblings.host_server import SiblingServer
from ballonet.siblings.hyperv_conversation import HypervConversation
from ballonet.siblings.sibling_control import SiblingControl
from ballonet.siblings.vmware_conversation import VmwareConversation
from ballonet.vmware.calls import CAPABILITY_NAMES, Capability
from ballonet.vmware.host import VmwareHostSettings

__all__ = ["CapabilitiesType", "check_options", "make_sibling", "sibling_options"]

FC = TypeVar("FC", bound=Callable[..., Any])

_KINDS: Final = ("virtio", "hyperv", "vmware")
#: Parameters that mean something for each kind; the others are virtio's.
_FOR_ALL: Final = frozenset(
    {
        *("balloon", "socket_path", "fd", "target_bytes", "monitors", "balloon_id"),
        *("memory_bytes", "qemu_version", "trace_path", "trace_limit_bytes", "sandbox"),
    }
)
_OF_KIND: Final = {
    "hyperv": frozenset({"status_report", "post_init_wait_s"}),
    "vmware": frozenset({"capabilities"}),
}
_OF_SIBLINGS: Final = frozenset().union(*_OF_KIND.values())


class CapabilitiesType(click.ParamType[Capability]):
    """Names of VMware's capabilities, joined by commas."""

    name = "names"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> Capability:
        """Those named; wrong use if there is no such name."""
        if isinstance(value, Capability):
            return value
        bits = {name: bit for bit, name in CAPABILITY_NAMES.items()}
        names = str(value).split(",")
        for name in names:
            if name not in bits:
                self.fail(f"no capability {name!r}; there are {', '.join(bits)}", param, ctx)
        return reduce(or_, (bits[name] for name in names))


_OPTIONS: Final[tuple[Callable[[Any], Any], ...]] = (
    click.option(
        "--balloon",
        type=click.Choice(_KINDS),
        default="virtio",
        show_default=True,
        help="Protocol of the balloon. Hyper-V's and VMware's are for `ballonet guest embedded`"
        " with the same option.",
    ),
    click.option(
        "--status-report", is_flag=True, help="hyperv: have guests report their memory, as QEMU's."
    ),
    click.option(
        "--post-init-wait",
        "post_init_wait_s",
        type=SecondsType(),
        help="hyperv: ask nothing of a guest so soon after it begins; QEMU waits 50s, for Windows.",
    ),
    click.option(
        "--capabilities",
        type=CapabilitiesType(),
        default=",".join(CAPABILITY_NAMES.values()),
        show_default=True,
        help="vmware: what the host grants.",
    ),
)


def sibling_options(command: FC) -> FC:
    """Give a command `--balloon`, and what belongs to it."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def check_options(ctx: click.Context) -> None:
    """Raises: click.UsageError, naming an option that was given and does not apply."""
    kind = ctx.params["balloon"]
    for param in ctx.command.params:
        name = param.name or ""
        is_given = ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if is_given and not _applies(name, kind):
            is_off = param.secondary_opts and ctx.params[name] is False
            option = (param.secondary_opts if is_off else param.opts)[0]
            raise click.UsageError(f"{option} does not apply to --balloon {kind}", ctx)


def make_sibling(
    options: Mapping[str, Any], sock: socket.socket, *, listening: bool
) -> tuple[SiblingServer, SiblingControl]:
    """The host of the kind that was asked for, and how it is controlled."""
    clock = SystemClock()
    conversation: Conversation
    wants_reports: bool | None = None
    if options["balloon"] == "hyperv":
        wants_reports = bool(options["status_report"])
        wait_ns = int((options["post_init_wait_s"] or 0) * NS_PER_S)
        settings = HypervHostSettings(post_init_wait_ns=wait_ns, status_report=wants_reports)
        conversation = HypervConversation(clock, settings)
    else:
        conversation = VmwareConversation(clock, VmwareHostSettings(options["capabilities"]))
    server = SiblingServer(conversation, sock, listening=listening)
    return server, SiblingControl(server, wants_reports=wants_reports)


def _applies(name: str, kind: str) -> bool:
    if name in _FOR_ALL:
        return True
    return name not in _OF_SIBLINGS if kind == "virtio" else name in _OF_KIND[kind]
