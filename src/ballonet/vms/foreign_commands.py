"""What our clients may send to a monitor that is not ours: commands that cannot hurt its VM.

All of them are part of QEMU's stable interface.  `x-` commands are not: `x-query-virtio-status`
ends a QEMU 11.1, and the VM with it, by an assertion of its own.  What a person types in `ballonet
monitor` is that person's.
Source: QEMU qapi/machine.json, qapi/qom.json, qapi/run-state.json, qapi/control.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

__all__ = [
    "BALLOON_PARENTS",
    "DEFLATES_ON_OOM",
    "FOREIGN_COMMANDS",
    "GUEST_STATS",
    "POLL_INTERVAL",
    "ForeignCommand",
    "may_be_sent",
]

POLL_INTERVAL: Final = "guest-stats-polling-interval"
GUEST_STATS: Final = "guest-stats"
DEFLATES_ON_OOM: Final = "deflate-on-oom"
#: Where devices that a user added are: those with a name, and those without.
BALLOON_PARENTS: Final = ("/machine/peripheral", "/machine/peripheral-anon")


class ForeignCommand(NamedTuple):
    """One row."""

    purpose: str
    since: str  #: release of QEMU
    changes: str = ""  #: what it changes; empty: nothing
    only: Mapping[str, tuple[str, ...]] = {}  #: argument -> the values it may have


FOREIGN_COMMANDS: Final[Mapping[str, ForeignCommand]] = {
    "query-balloon": ForeignCommand("how much memory the guest has", "0.14"),
    "query-memory-size-summary": ForeignCommand("all memory of the guest", "2.11"),
    "query-status": ForeignCommand("whether the VM runs or is paused", "0.14"),
    "qom-list": ForeignCommand("where the balloon is", "1.2", only={"path": BALLOON_PARENTS}),
    "qom-get": ForeignCommand(
        "statistics, how often they are asked for, what the balloon does when memory runs out",
        "1.2",
        only={"property": (GUEST_STATS, POLL_INTERVAL, DEFLATES_ON_OOM)},
    ),
    "qom-set": ForeignCommand(
        "asks the guest for statistics",
        "1.2",
        changes="how often statistics are asked for, until it is put back",
        only={"property": (POLL_INTERVAL,)},
    ),
    "balloon": ForeignCommand("asks for another size", "0.14", changes="the target"),
}


def may_be_sent(command: str, arguments: Mapping[str, object]) -> bool:
    """Whether the table has this command, with arguments such as these."""
    row = FOREIGN_COMMANDS.get(command)
    return row is not None and all(
        arguments.get(name) in values for name, values in row.only.items()
    )
