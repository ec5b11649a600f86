"""Free page hints for a migration that is another program: by commands of the monitor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.integration.device_under_test import SECONDS, Device, DeviceProcess
from tests.support.qmp_client import QmpClient
from tests.support.scripts import FIVE_QUEUES, reconnect_qemu, start_qemu, start_uml
from tests.support.session import Session
from tests.support.wait import wait_until

from ballonet.monitor.serving import monitoring
from ballonet.vhost_user.listener import listening_socket

FIRST_ROUND = 0x8000_0001
STOP, DONE = 0, 1


@pytest.fixture
def qmp(device: Device, tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "qmp"
    with listening_socket(path) as sock, monitoring(device.control, [sock]):
        yield path


@pytest.fixture
def client(qmp: Path) -> Iterator[QmpClient]:
    with QmpClient(qmp).negotiate() as made:
        yield made


@pytest.fixture
def guest(device: Device) -> Iterator[Session]:
    with start_uml(device, wanted=FIVE_QUEUES) as made:
        yield made


def begin(client: QmpClient, **arguments: object) -> int:
    return int(client.ask("x-ballonet-begin-hints", **arguments)["return"]["id"])


def take(client: QmpClient, cmd_id: int, **arguments: object) -> dict[str, Any]:
    return dict(client.ask("x-ballonet-take-hints", id=cmd_id, **arguments)["return"])


def refusal(answer: dict[str, Any]) -> str:
    return str(answer["error"]["desc"])


def test_a_round_is_begun_taken_in_pieces_stopped_and_finished(
    client: QmpClient, guest: Session
) -> None:
    first, _ = guest.free_range()
    assert begin(client) == FIRST_ROUND == guest.read_cmd_id()
    nothing = {"id": FIRST_ROUND, "state": "requested", "runs": [], "more": False}
    assert take(client, FIRST_ROUND) == nothing
    guest.say(FIRST_ROUND)
    for offset in (0, 8, 32, 16, 64):
        guest.hint(first + offset, 8)
    taken = take(client, FIRST_ROUND, runs=2)
    assert taken["runs"] == [[first, 24], [first + 32, 8]]
    assert (taken["state"], taken["more"]) == ("start", True)
    guest.hint(first + 128, 4)
    assert client.ask("x-ballonet-stop-hints") == {"return": {}}
    guest.hint(first + 256, 4)  # too late
    taken = take(client, FIRST_ROUND)
    assert taken["runs"] == [[first + 64, 8], [first + 128, 4]]
    assert (taken["state"], taken["more"]) == ("stop", False)
    assert guest.read_cmd_id() == STOP
    assert client.ask("x-ballonet-finish-hints") == {"return": {}}
    assert guest.read_cmd_id() == DONE
    assert "not the present" in refusal(client.ask("x-ballonet-take-hints", id=FIRST_ROUND))


def test_hints_of_an_older_round_are_never_told(client: QmpClient, guest: Session) -> None:
    first, _ = guest.free_range()
    older = begin(client)
    guest.say(older)
    guest.hint(first, 8)
    newer = begin(client)
    guest.hint(first + 8, 8)
    guest.say(older)
    guest.hint(first + 16, 8)
    assert newer == older + 1
    assert "not the present" in refusal(client.ask("x-ballonet-take-hints", id=older))
    assert take(client, newer)["runs"] == []
    guest.say(newer)
    guest.hint(first + 24, 8)
    assert take(client, newer)["runs"] == [[first + 24, 8]]


def test_a_lease_that_ends_gives_the_guest_its_pages_back_and_says_so(
    client: QmpClient, guest: Session
) -> None:
    cmd_id = begin(client, lease=1)
    guest.say(cmd_id)
    guest.hint(guest.free_range()[0], 8)
    assert client.wait_for("x-ballonet-hint-lease-ended")["data"] == {"id": cmd_id}
    assert guest.read_cmd_id() == DONE
    assert "lease" in refusal(client.ask("x-ballonet-take-hints", id=cmd_id))


def test_a_migration_that_went_away_leaves_its_lease_to_end(qmp: Path, guest: Session) -> None:
    with QmpClient(qmp).negotiate() as client:
        guest.say(begin(client, lease=1))
    wait_until(lambda: guest.read_cmd_id() == DONE, SECONDS, "the guest waits for ever")


def test_where_there_is_nobody_to_ask_that_is_said(client: QmpClient, device: Device) -> None:
    assert "no driver" in refusal(client.ask("x-ballonet-begin-hints"))
    with start_uml(device):
        assert "no driver" in refusal(client.ask("x-ballonet-begin-hints"))
    assert "not the present" in refusal(client.ask("x-ballonet-take-hints", id=FIRST_ROUND))
    assert client.ask("x-ballonet-stop-hints") == {"return": {}}
    assert client.ask("x-ballonet-finish-hints") == {"return": {}}


def test_the_hints_of_a_guest_that_left_are_no_hints_about_the_next(
    client: QmpClient, device: Device
) -> None:
    with start_uml(device, wanted=FIVE_QUEUES) as guest:
        cmd_id = begin(client)
        guest.say(cmd_id)
        guest.hint(guest.free_range()[0], 8)
    device.wait_until_free()
    with start_uml(device, wanted=FIVE_QUEUES):
        assert "not the present" in refusal(client.ask("x-ballonet-take-hints", id=cmd_id))


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("begin", {"lease": 0}),
        ("begin", {"lease": 1 << 40}),
        ("begin", {"lease": "1"}),
        ("stop", {"lease": -1}),
        ("take", {}),
        ("take", {"id": FIRST_ROUND, "runs": 0}),
        ("take", {"id": FIRST_ROUND, "runs": 1 << 20}),
    ],
)
def test_what_cannot_be_is_refused(
    client: QmpClient, guest: Session, command: str, arguments: dict[str, object]
) -> None:
    assert "parameter" in refusal(client.ask(f"x-ballonet-{command}-hints", **arguments)).lower()
    assert guest.read_cmd_id() == STOP


def test_a_device_killed_in_the_middle_of_a_round_ends_it_and_takes_nothing_of_it(
    tmp_path: Path,
) -> None:
    socket_path, qmp = tmp_path / "device", tmp_path / "qmp"
    options = ("--state-file", tmp_path / "state", "--qmp", f"unix:{qmp},server=on,wait=off")
    with ExitStack() as stack:
        first = stack.enter_context(DeviceProcess(socket_path, tmp_path / "log", *options))
        guest = stack.enter_context(start_qemu(first.path, wanted=FIVE_QUEUES))
        pfn, _ = guest.free_range()
        with QmpClient(qmp).negotiate() as client:
            older = begin(client)
        first.kill()  # before it can have written the round's id down
        socket_path.unlink()
        qmp.unlink()
        second = stack.enter_context(DeviceProcess(socket_path, tmp_path / "log", *options))
        reconnect_qemu(second.path, guest, FIVE_QUEUES)
        assert guest.front_end.read_backend_message(), "the driver is not told to look"
        assert guest.read_cmd_id() == DONE
        with QmpClient(qmp).negotiate() as client:
            newer = begin(client)
            assert newer > older
            guest.say(older)  # as a driver that has only now come to it
            guest.hint(pfn, 8)
            assert take(client, newer)["runs"] == []
            guest.say(newer)
            guest.hint(pfn + 8, 8)
            assert take(client, newer)["runs"] == [[pfn + 8, 8]]


def test_a_guest_that_connects_again_in_the_middle_of_a_round_has_its_pages_back(
    client: QmpClient, device: Device
) -> None:
    with start_qemu(device, wanted=FIVE_QUEUES) as guest:
        cmd_id = begin(client)
        guest.say(cmd_id)
        guest.hint(guest.free_range()[0], 8)
        reconnect_qemu(device.path, guest, FIVE_QUEUES)
        assert guest.front_end.read_backend_message(), "the driver is not told to look"
        assert guest.read_cmd_id() == DONE
        assert "not the present" in refusal(client.ask("x-ballonet-take-hints", id=cmd_id))
