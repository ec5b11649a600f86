"""What the monitor of a guest that can move takes and refuses."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping

import pytest

from ballonet.errors import MigrationError
from ballonet.qmp.commands import run_command
from ballonet.qmp.errors import CommandError
from ballonet.qmp.guest_commands import CAPABILITIES, GUEST_COMMANDS, PARAMETERS


class FakeMachine:
    """Remembers what it was told."""

    run_state = "running"

    def __init__(self) -> None:
        self.parameters = {row.name: row.default for row in PARAMETERS}
        self.capabilities = dict(CAPABILITIES)
        self.migrated: list[tuple[str, bool]] = []

    def set_parameters(self, values: Mapping[str, int]) -> None:
        self.parameters.update(values)

    def set_capabilities(self, values: Mapping[str, bool]) -> None:
        self.capabilities.update(values)

    async def migrate(self, uri: str, *, resume: bool) -> None:
        if uri == "unix:nowhere":
            raise MigrationError("nobody listens there")
        self.migrated.append((uri, resume))


def do(machine: FakeMachine, name: str, **arguments: object) -> object:
    async def obey() -> object:
        answer = run_command(
            GUEST_COMMANDS[name],
            machine,
            {key.replace("_", "-"): value for key, value in arguments.items()},
        )
        return await answer if isinstance(answer, Awaitable) else answer

    return asyncio.run(obey())


def test_a_migration_is_begun_as_qemu_s_is() -> None:
    machine = FakeMachine()
    assert do(machine, "migrate", uri="unix:/run/there") == {}
    assert do(machine, "migrate", uri="unix:/run/there", resume=True) == {}
    assert machine.migrated == [("unix:/run/there", False), ("unix:/run/there", True)]


def test_why_it_cannot_begin_is_told() -> None:
    with pytest.raises(CommandError, match="nobody listens there"):
        do(FakeMachine(), "migrate", uri="unix:nowhere")


def test_parameters_are_kept_within_their_limits() -> None:
    machine = FakeMachine()
    do(machine, "migrate-set-parameters", downtime_limit=50, max_bandwidth=1 << 20)
    asked = do(machine, "query-migrate-parameters")
    assert isinstance(asked, dict)
    assert (asked["downtime-limit"], asked["max-bandwidth"]) == (50, 1 << 20)
    for name, value in {"downtime_limit": -1, "x_ballonet_force": 2}.items():
        with pytest.raises(CommandError, match="in the range of 0 to"):
            do(machine, "migrate-set-parameters", **{name: value})


def test_an_unknown_parameter_is_refused() -> None:
    with pytest.raises(CommandError, match="'speed' is unexpected"):
        do(FakeMachine(), "migrate-set-parameters", speed=1)


@pytest.mark.parametrize(
    "rows",
    [
        3,
        [3],
        [{"capability": "events"}],
        [{"capability": "xbzrle", "state": True}],
        [{"capability": "events", "state": 1}],
        [{"capability": {}, "state": True}],
    ],
)
def test_capabilities_that_are_none_are_refused(rows: object) -> None:
    machine = FakeMachine()
    with pytest.raises(CommandError):
        do(machine, "migrate-set-capabilities", capabilities=rows)
    assert machine.capabilities == CAPABILITIES


def test_capabilities_are_shown_as_they_are() -> None:
    machine = FakeMachine()
    do(machine, "migrate-set-capabilities", capabilities=[{"capability": "events", "state": True}])
    assert {"capability": "events", "state": True} in do(machine, "query-migrate-capabilities")  # type: ignore[operator]


def test_every_command_is_listed() -> None:
    rows = do(FakeMachine(), "query-commands")
    assert isinstance(rows, list)
    assert {row["name"] for row in rows} == {*GUEST_COMMANDS, "qmp_capabilities"}
