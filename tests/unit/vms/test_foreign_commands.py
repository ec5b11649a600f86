"""What may be sent to somebody else's monitor."""

from __future__ import annotations

import pytest

from ballonet.vms.foreign_commands import (
    FOREIGN_COMMANDS,
    MIGRATION_COMMANDS,
    may_be_sent,
    may_be_sent_to_migrate,
)


def test_nothing_in_the_table_is_unstable_or_ends_or_stops_a_vm() -> None:
    """A change of this list is a decision about other people's VMs."""
    assert set(FOREIGN_COMMANDS) == {
        "balloon",
        "calc-dirty-rate",
        "qom-get",
        "qom-list",
        "qom-set",
        "query-balloon",
        "query-dirty-rate",
        "query-migrate",
        "query-memory-size-summary",
        "query-status",
    }
    assert [name for name, row in FOREIGN_COMMANDS.items() if row.changes] == ["qom-set", "balloon"]


@pytest.mark.parametrize(
    ("command", "arguments", "may"),
    [
        ("query-balloon", {}, True),
        ("qom-get", {"path": "/machine/peripheral/b", "property": "guest-stats"}, True),
        ("qom-set", {"property": "guest-stats-polling-interval", "value": 1}, True),
        ("qom-set", {"property": "guest-stats", "value": 1}, False),
        ("qom-set", {"value": 1}, False),
        ("qom-get", {"path": "/machine", "property": "rtc-time"}, False),
        ("qom-list", {"path": "/machine/unattached"}, False),
        ("calc-dirty-rate", {"calc-time": 1}, True),
        ("calc-dirty-rate", {"calc-time": 1, "mode": "dirty-bitmap"}, False),
        ("migrate", {"uri": "unix:/x"}, False),
        ("migrate_cancel", {}, False),
        ("x-query-virtio-status", {"path": "/machine/peripheral/b"}, False),
        ("x-ballonet-info", {}, False),
        ("human-monitor-command", {"command-line": "info balloon"}, False),
        ("quit", {}, False),
        ("system_reset", {}, False),
    ],
)
def test_it_is_the_tables_commands_with_the_tables_arguments(
    command: str, arguments: dict[str, object], may: bool
) -> None:
    assert may_be_sent(command, arguments) is may


def test_a_migration_consists_of_stable_commands() -> None:
    assert set(MIGRATION_COMMANDS) == {
        "migrate",
        "migrate-set-capabilities",
        "migrate-set-parameters",
        "migrate-start-postcopy",
        "migrate_cancel",
        "query-migrate",
        "query-migrate-capabilities",
        "query-migrate-parameters",
    }


def switch(*names: str) -> dict[str, object]:
    return {"capabilities": [{"capability": name, "state": True} for name in names]}


@pytest.mark.parametrize(
    ("command", "arguments", "may"),
    [
        ("query-migrate", {}, True),
        ("migrate", {"uri": "unix:/x"}, True),
        ("migrate", {"uri": "unix:/x", "resume": True}, True),
        ("migrate", {"uri": "unix:/x", "blk": True}, False),
        ("migrate-set-capabilities", switch("events", "postcopy-ram"), True),
        ("migrate-set-capabilities", switch("events", "x-colo"), False),
        ("migrate-set-capabilities", switch("pause-before-switchover"), False),
        ("migrate-set-capabilities", {}, False),
        ("migrate-set-parameters", {"downtime-limit": 1, "max-bandwidth": 1}, True),
        ("migrate-set-parameters", {"downtime-limit": 1, "tls-creds": ""}, False),
        ("migrate-recover", {"uri": "x"}, False),
        ("balloon", {"value": 1}, False),
        ("quit", {}, False),
        ("stop", {}, False),
    ],
)
def test_a_migration_sends_its_own_commands_only(
    command: str, arguments: dict[str, object], *, may: bool
) -> None:
    assert may_be_sent_to_migrate(command, arguments) is may
