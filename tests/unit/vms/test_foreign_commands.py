"""What may be sent to somebody else's monitor."""

from __future__ import annotations

import pytest

from ballonet.vms.foreign_commands import FOREIGN_COMMANDS, may_be_sent


def test_nothing_in_the_table_is_unstable_or_ends_or_stops_a_vm() -> None:
    """A change of this list is a decision about other people's VMs."""
    assert set(FOREIGN_COMMANDS) == {
        "balloon",
        "qom-get",
        "qom-list",
        "qom-set",
        "query-balloon",
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
