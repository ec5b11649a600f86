"""What each command of the monitor answers, by the release it speaks as."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.qmp.fake_machine import FakeMachine, result_of

from ballonet.qmp.commands import COMMANDS, EVENTS, run_command
from ballonet.qmp.errors import CommandError, NoBalloonError
from ballonet.qmp.version import VERSIONS


def run(machine: FakeMachine, command: str, **arguments: object) -> Any:  # noqa: ANN401 - JSON
    named = {name.replace("_", "-"): value for name, value in arguments.items()}
    return result_of(run_command(COMMANDS[command], machine, named))


@pytest.mark.parametrize("value", [0, -1])
def test_a_size_that_is_none_is_refused_in_the_words_of_the_release(value: int) -> None:
    for version, name in (("7.2", "target"), ("11.1", "value")):
        with pytest.raises(CommandError, match=f"Parameter '{name}' expects a size"):
            run(FakeMachine(version=VERSIONS[version]), "balloon", value=value)


def test_the_status_has_the_members_of_the_release() -> None:
    old, new = (FakeMachine(version=VERSIONS[version]) for version in ("7.2", "11.1"))
    assert run(new, "query-status") == {"status": "running", "running": True}
    assert run(old, "query-status") == run(new, "query-status") | {"singlestep": False}
    run(new, "stop")
    assert run(new, "query-status") == {"status": "paused", "running": False}


def test_the_release_is_told() -> None:
    for text in VERSIONS:
        numbers = run(FakeMachine(version=VERSIONS[text]), "query-version")["qemu"]
        assert f"{numbers['major']}.{numbers['minor']}" == text


def test_a_guest_is_named_if_its_name_is_known() -> None:
    assert run(FakeMachine(), "query-name") == {}
    assert run(FakeMachine(name="web"), "query-name") == {"name": "web"}


def test_all_memory_is_told_as_far_as_it_is_known() -> None:
    summary = {"base-memory": 512 << 20, "plugged-memory": 0}
    assert run(FakeMachine(), "query-memory-size-summary") == summary
    with pytest.raises(NoBalloonError):
        run(FakeMachine(None), "query-memory-size-summary")


def test_the_balloon_s_type_has_properties_and_no_other_type_is_there() -> None:
    rows = run(FakeMachine(), "device-list-properties", typename="virtio-balloon-pci")
    assert {"name": "guest-stats-polling-interval", "type": "int"} in rows
    assert {"name": "deflate-on-oom", "type": "bool", "description": "on/off"} in rows
    with pytest.raises(CommandError) as refused:
        run(FakeMachine(), "device-list-properties", typename="e1000")
    assert (refused.value.qmp_class, refused.value.desc) == (
        "DeviceNotFound",
        "Device 'e1000' not found",
    )


@pytest.mark.parametrize("value", [True, "1", 1.0, None, 2**63, -(2**63) - 1, [], {}])
def test_what_is_no_integer_of_64_bits_is_refused(value: object) -> None:
    wanted = "Invalid parameter type for 'value', expected: integer"
    with pytest.raises(CommandError, match=wanted):
        run(FakeMachine(), "balloon", value=value)


def test_arguments_that_lack_or_are_too_many_are_refused() -> None:
    with pytest.raises(CommandError, match="Parameter 'value' is missing"):
        run(FakeMachine(), "balloon")
    with pytest.raises(CommandError, match="Parameter 'x' is unexpected"):
        run(FakeMachine(), "balloon", value=1 << 20, x=1)


def test_the_schema_describes_every_command_event_and_type_it_names() -> None:
    for version in VERSIONS.values():
        rows = run(FakeMachine(version=version), "query-qmp-schema")
        names = [row["name"] for row in rows]
        assert len(names) == len(set(names))
        assert set(COMMANDS) | set(EVENTS) <= set(names)
        for row in rows:
            named = [row.get(key) for key in ("arg-type", "ret-type", "element-type")]
            named += [member["type"] for member in row.get("members", ())]
            assert set(named) - {None} <= set(names), row
        (status,) = (row for row in rows if row["name"] == "StatusInfo")
        members = {member["name"] for member in status["members"]}
        assert members == set(run(FakeMachine(version=version), "query-status"))
