"""What our clients may send to a monitor that is not ours: commands that cannot hurt its VM.

All of them are part of QEMU's stable interface.  `x-` commands are not: `x-query-virtio-status`
ends a QEMU 11.1, and the VM with it, by an assertion of its own.  What a person types in `ballonet
monitor` is that person's.
Source: QEMU qapi/machine.json, qapi/qom.json, qapi/run-state.json, qapi/control.json,
qapi/migration.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

__all__ = [
    "BALLOON_PARENTS",
    "DEFLATES_ON_OOM",
    "FOREIGN_COMMANDS",
    "FREE_PAGE_HINT",
    "GUEST_STATS",
    "MIGRATION_CAPABILITIES",
    "MIGRATION_COMMANDS",
    "MIGRATION_PARAMETERS",
    "POLL_INTERVAL",
    "ForeignCommand",
    "may_be_sent",
    "may_be_sent_to_migrate",
]

POLL_INTERVAL: Final = "guest-stats-polling-interval"
GUEST_STATS: Final = "guest-stats"
DEFLATES_ON_OOM: Final = "deflate-on-oom"
FREE_PAGE_HINT: Final = "free-page-hint"
#: Where devices that a user added are: those with a name, and those without.
BALLOON_PARENTS: Final = ("/machine/peripheral", "/machine/peripheral-anon")


class ForeignCommand(NamedTuple):
    """One row."""

    purpose: str
    since: str  #: release of QEMU
    changes: str = ""  #: what it changes; empty: nothing
    only: Mapping[str, tuple[str | None, ...]] = {}  #: argument -> the values it may have


FOREIGN_COMMANDS: Final[Mapping[str, ForeignCommand]] = {
    "query-balloon": ForeignCommand("how much memory the guest has", "0.14"),
    "query-memory-size-summary": ForeignCommand("all memory of the guest", "2.11"),
    "query-status": ForeignCommand("whether the VM runs or is paused", "0.14"),
    "qom-list": ForeignCommand("where the balloon is", "1.2", only={"path": BALLOON_PARENTS}),
    "qom-get": ForeignCommand(
        "statistics, how often they are asked for, what the balloon does when memory runs out and"
        " when the VM is migrated",
        "1.2",
        only={"property": (GUEST_STATS, POLL_INTERVAL, DEFLATES_ON_OOM, FREE_PAGE_HINT)},
    ),
    "qom-set": ForeignCommand(
        "asks the guest for statistics",
        "1.2",
        changes="how often statistics are asked for, until it is put back",
        only={"property": (POLL_INTERVAL,)},
    ),
    "balloon": ForeignCommand("asks for another size", "0.14", changes="the target"),
    "calc-dirty-rate": ForeignCommand(
        "has the guest's writing measured: samples its pages, and looks at them again",
        "5.2",
        only={"mode": (None,)},  # the others slow the guest down
    ),
    "query-dirty-rate": ForeignCommand("what was measured", "5.2"),
    "query-migrate": ForeignCommand("whether the VM is on its way elsewhere", "0.14"),
}

#: Only for whoever asked for a migration.
MIGRATION_COMMANDS: Final[Mapping[str, ForeignCommand]] = {
    "query-migrate": ForeignCommand("how far it is", "0.14"),
    "query-migrate-capabilities": ForeignCommand("what it can do", "1.2"),
    "query-migrate-parameters": ForeignCommand("how it is to go", "2.4"),
    "migrate-set-capabilities": ForeignCommand(
        "events, a destination that confirms, post-copy",
        "1.2",
        changes="that, until it is put back",
    ),
    "migrate-set-parameters": ForeignCommand(
        "downtime and bandwidth", "2.4", changes="that, until it is put back"
    ),
    "migrate": ForeignCommand("begins it", "0.14", changes="where the VM runs"),
    "migrate_cancel": ForeignCommand("ends it", "0.14", changes="nothing: the VM goes on"),
    "migrate-start-postcopy": ForeignCommand(
        "has the guest go on at the destination at once", "2.5", changes="where the VM runs"
    ),
}
#: What may be switched, the last two only at machines of ours: QEMU has none of that name.
MIGRATION_CAPABILITIES: Final = (
    "events",
    "return-path",
    "postcopy-ram",
    "x-ballonet-hints",
    "x-ballonet-verify",
)
MIGRATION_PARAMETERS: Final = ("downtime-limit", "max-bandwidth")


def may_be_sent(command: str, arguments: Mapping[str, object]) -> bool:
    """Whether the table has this command, with arguments such as these."""
    row = FOREIGN_COMMANDS.get(command)
    return row is not None and all(
        arguments.get(name) in values for name, values in row.only.items()
    )


def may_be_sent_to_migrate(command: str, arguments: Mapping[str, object]) -> bool:
    """Whether a migration may send this command, with arguments such as these."""
    match command:
        case "migrate-set-capabilities":
            rows = arguments.get("capabilities")
            return isinstance(rows, list) and all(
                row.get("capability") in MIGRATION_CAPABILITIES for row in rows
            )
        case "migrate-set-parameters":
            return set(arguments) <= set(MIGRATION_PARAMETERS)
        case "migrate":
            return set(arguments) in ({"uri"}, {"uri", "resume"})
    return command in MIGRATION_COMMANDS
