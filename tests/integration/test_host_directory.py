"""The directory of a host: whose it must be, who has it, and what is in it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.integration.host_under_test import BALLONET, running
from tests.support.front_end import FrontEnd
from tests.support.qmp_client import QmpClient
from tests.support.scripts import start_uml
from tests.support.small_disk import small_disk
from tests.support.wait import PATIENCE_S, wait_until

GIB = 1 << 30
NOBODY = 65534


def start(directory: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """A host that cannot be started."""
    command = [BALLONET, "host"] + (["--directory", str(directory)] if not more else [])
    env = {**os.environ, **more}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=env, timeout=PATIENCE_S
    )


def names(directory: Path) -> list[str]:
    """Of all files in it."""
    return sorted(one.name for one in directory.iterdir())


def give_away(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a directory away")
    os.chown(path, NOBODY, NOBODY)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.chmod(0o777), "one that only its owner may write to; its mode is 777"),
        (lambda path: path.chmod(0o770), "one that only its owner may write to; its mode is 770"),
        (give_away, f"it is user {NOBODY}'s"),
    ],
)
def test_a_directory_that_others_may_write_to_is_refused(
    tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    directory = tmp_path / "run" / "ballonet"
    directory.mkdir(mode=0o700, parents=True)
    (directory / "host.json").write_text(json.dumps({"version": 1, "guests": {"planted": None}}))
    spoil(directory)
    for done in (start(directory), start(directory, XDG_RUNTIME_DIR=str(tmp_path / "run"))):
        assert done.returncode == 2
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
    assert names(directory) == ["host.json"]


def test_a_directory_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    done = start(tmp_path / "link")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert names(tmp_path / "real") == []


def test_a_directory_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    with running(tmp_path / "new") as host:
        host.add("web")
        for path in (tmp_path / "new", *(tmp_path / "new").iterdir()):
            assert path.stat().st_mode & 0o077 == 0, path


def test_of_hosts_that_start_at_once_one_serves(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "host.qmp"))
    command = [BALLONET, "host", "--directory", str(tmp_path)]
    hosts = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    try:
        wait_until(lambda: [one.poll() for one in hosts].count(1) == 3, 10, "all but one give up")
        with QmpClient(tmp_path / "host.qmp") as client:
            assert client.negotiate().ask("x-ballonet-query-guests") == {"return": []}
    finally:
        for one in hosts:
            one.send_signal(signal.SIGTERM)
        said = [one.communicate()[1] for one in hosts]
    assert sum("another program listens there" in text for text in said) == 3


def test_a_list_that_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk, running(disk.path / "host") as host:
        path = host.add("web")
        disk.fill()
        before = names(host.directory)
        done = host.verb("add", "db")
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert "No space left" in done.stderr
        assert names(host.directory) == before
        done = host.verb("remove", "web")
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert list(host.rows()) == ["web"]
        with FrontEnd.connect(path) as front_end:
            assert front_end.get_features()
        disk.free()
        assert host.verb("remove", "web").returncode == 0
        assert host.verb("add", "db").returncode == 0
        assert list(host.rows()) == ["db"]


def test_what_guests_have_left_is_swept_at_the_start_and_nothing_else(tmp_path: Path) -> None:
    state = {"version": 1, "target_pages": 7}
    left = ["ghost.state", ".ghost.state.17", "ghost.state.bad"]
    for name in left:
        (tmp_path / name).write_text(json.dumps(state))
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "ghost.sock"))
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "folder.state").mkdir()
    with running(tmp_path) as host:
        assert names(tmp_path) == ["folder.state", "host.qmp", "notes.txt"]
        with start_uml(host.add("ghost")) as session:
            assert session.read_num_pages() == 0


def test_the_state_of_a_guest_goes_with_it(tmp_path: Path) -> None:
    with running(tmp_path) as host:
        host.add("web")
        wait_until((tmp_path / "web.state").exists, 10, "a state")
        assert host.verb("remove", "web").returncode == 0
        assert names(tmp_path) == ["host.json", "host.qmp"]


def test_a_state_file_of_garbage_costs_that_guest_its_state_and_nobody_else(
    tmp_path: Path,
) -> None:
    with running(tmp_path) as host:
        for name in ("web", "db"):
            host.add(name)
        host.end()
    (tmp_path / "web.state").write_bytes(b"\xff\xfe[[[[")
    with running(tmp_path) as host:
        for name in ("web", "db"):
            with FrontEnd.connect(tmp_path / f"{name}.sock") as front_end:
                assert front_end.get_features()
        assert [row["state"] for row in host.rows().values()] == ["running"] * 2
        assert b"ballonet: web: no state in" in host.log()


def test_one_guest_that_cannot_be_served_does_not_stop_the_others(tmp_path: Path) -> None:
    with running(tmp_path) as host:
        for name in ("web", "db"):
            host.add(name)
        host.end()
    (tmp_path / "web.sock").write_text("in the way")
    with running(tmp_path) as host:
        assert list(host.rows()) == ["db"]
        assert b"web is not served: listening at" in host.log()
        host.add("mail")
    assert list(json.loads((tmp_path / "host.json").read_text())["guests"]) == ["web", "db", "mail"]


def test_a_name_is_free_when_remove_has_answered(tmp_path: Path) -> None:
    with running(tmp_path) as host, host.monitor() as client:
        for _ in range(20):
            row = client.ask("x-ballonet-add-guest", name="web")["return"]
            with FrontEnd.connect(Path(row["socket"])) as front_end:
                front_end.get_features()
                assert client.ask("x-ballonet-remove-guest", name="web") == {"return": {}}
        assert client.ask("x-ballonet-query-guests") == {"return": []}


def test_a_client_of_a_guest_that_is_removed_hears_so_and_is_hung_up_on(tmp_path: Path) -> None:
    with running(tmp_path) as host:
        host.add("web")
        with QmpClient(tmp_path / "web.qmp") as client:
            client.negotiate()
            assert host.verb("remove", "web").returncode == 0
            assert client.wait_for("SHUTDOWN")
            assert client.line() is None
        host.add("web")


def test_memory_is_listed_as_it_was_given_before_there_is_a_vmm(tmp_path: Path) -> None:
    with running(tmp_path) as host:
        assert host.verb("add", "web", "--memory", "4G").returncode == 0
        assert host.rows()["web"]["memory"] == 4 * GIB
        assert "4.0 GiB" in host.verb("list").stdout
        rows = json.loads(host.verb("list", "--json").stdout)
        assert [(row["name"], row["memory_bytes"], row["connected"]) for row in rows] == [
            ("web", 4 * GIB, False)
        ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_each_signal_ends_it_and_leaves_no_socket(tmp_path: Path, number: signal.Signals) -> None:
    with running(tmp_path) as host:
        host.add("web")
        workers = host.children()
        assert host.end(number) == 0
        assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    assert names(tmp_path) == ["host.json", "web.state"]


def test_a_host_can_be_started_again_at_once_after_it_was_killed(tmp_path: Path) -> None:
    guests = ["db", "mail", "web"]
    with running(tmp_path) as host:
        for name in guests:
            host.add(name)
        host.end(signal.SIGKILL)
    for _ in range(5):
        with running(tmp_path) as host:
            assert list(host.rows()) == guests
            host.end(signal.SIGKILL)
