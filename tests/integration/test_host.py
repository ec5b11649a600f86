"""`ballonet host` as operators use it: guests come and go, and survive its restart."""

from __future__ import annotations

import signal
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path
from threading import Event, Thread

import pytest
from tests.integration.host_under_test import BALLONET, running
from tests.support.qmp_client import QmpClient
from tests.support.scripts import start_uml
from tests.support.session import Session
from tests.support.wait import PATIENCE_S, holds, wait_until

from ballonet.guests.embedded import EmbeddedGuestSettings
from ballonet.guests.embedded_process import EmbeddedGuest

MIB = 1 << 20


def guest(path: Path, memory_bytes: int = 128 * MIB) -> EmbeddedGuest:
    return EmbeddedGuest(EmbeddedGuestSettings(memory_bytes, path))


def test_guests_come_and_go_and_each_has_its_own_balloon(tmp_path: Path) -> None:
    with running(tmp_path) as host, ExitStack() as stack:
        paths = {name: host.add(name) for name in ("web", "db")}
        for path in paths.values():
            stack.enter_context(guest(path))
        host.balloon("web", "96M")
        wait_until(lambda: host.rows()["web"]["actual"] == 32 * MIB, 20, "web gives memory")
        assert host.rows()["db"]["actual"] == 0
        assert host.verb("remove", "web").returncode == 0
        assert list(host.rows()) == ["db"]
        assert sorted(one.name for one in tmp_path.glob("web*")) == []
        host.balloon("db", "100M")
        wait_until(lambda: host.rows()["db"]["actual"] == 28 * MIB, 20, "db gives memory")
        assert host.end() == 0
    left = sorted(one.name for one in tmp_path.iterdir())
    assert left == ["db.state", "host.json"]


def test_guests_and_targets_survive_a_kill_of_the_host(tmp_path: Path) -> None:
    with running(tmp_path) as host, guest(host.add("web")) as machine:
        host.balloon("web", "96M")
        wait_until(lambda: host.rows()["web"]["actual"] == 32 * MIB, 20, "the guest gives memory")
        wait_until(lambda: host.saved_pages("web") == 32 * MIB >> 12, 20, "its state is saved")
        host.end(signal.SIGKILL)
        with running(tmp_path) as again:
            wait_until(lambda: machine.ask("driver")["reconnections"] == 1, 20, "it is back")
            wait_until(lambda: again.rows()["web"]["memory"] == 128 * MIB, 20, "its VMM is back")
            row = again.rows()["web"]
            assert (row["target"], row["actual"]) == (32 * MIB, 32 * MIB)
            again.balloon("web", "128M")
            wait_until(lambda: again.rows()["web"]["actual"] == 0, 20, "the guest takes it back")


def test_idle_guests_never_wake_it(tmp_path: Path) -> None:
    with running(tmp_path) as host, ExitStack() as stack:
        for number in range(8):
            stack.enter_context(start_uml(host.add(f"guest{number}")))

        def sleeps() -> bool:
            before = host.wake_ups()
            return holds(lambda: host.wake_ups() == before, 2)

        wait_until(sleeps, 20, "it never comes to rest")


def test_a_guests_monitor_knows_its_name_and_which_qemu_it_is(tmp_path: Path) -> None:
    with running(tmp_path, "--qemu-version", "7.2") as host:
        host.add("web")
        with QmpClient(tmp_path / "web.qmp").negotiate() as client:
            assert client.ask("query-name") == {"return": {"name": "web"}}
            assert client.ask("query-version")["return"]["qemu"]["major"] == 7


def test_quit_at_a_guests_monitor_ends_that_guest_only(tmp_path: Path) -> None:
    with running(tmp_path) as host:
        for name in ("web", "db"):
            host.add(name)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(PATIENCE_S)
            sock.connect(str(tmp_path / "web.qmp"))
            sock.sendall(b'{"execute": "qmp_capabilities"}{"execute": "quit"}')
            said = b""
            while piece := sock.recv(4096):
                said += piece
        assert said.count(b'{"return": {}}') == 2
        wait_until(lambda: list(host.rows()) == ["db"], 10, "it is gone")


def test_a_guest_that_breaks_or_floods_its_rings_leaves_its_neighbour_alone(tmp_path: Path) -> None:
    with running(tmp_path) as host, ExitStack() as stack:
        good = stack.enter_context(start_uml(host.add("good")))
        bad = stack.enter_context(start_uml(host.add("bad")))
        first, _ = good.free_range()
        stop, served = Event(), list[int]()
        flood = Thread(target=_flood, args=(bad, stop, served))
        flood.start()
        wait_until(lambda: served, 20, "the flood has begun")
        before, rounds = len(served), 200
        for _ in range(rounds):
            good.inflate([first])
            good.deflate([first])
        meanwhile = len(served) - before
        stop.set()
        flood.join()
        assert 0 < meanwhile < 20 * rounds  # its turn comes, whatever the other wants
        bad.front_end.wire.send_raw(b"\xff" * 12)
        good.inflate([first])


def _flood(session: Session, stop: Event, served: list[int]) -> None:
    first, count = session.free_range()
    pfns = list(range(first, first + min(count, 256)))
    while not stop.is_set():
        served.append(session.inflate(pfns).head)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("add", "../x"), 2, "name of a guest: got '../x', expected 1 to 64 letters"),
        (("add", "host"), 2, "other than 'host'"),
        (("add", "web"), 1, "name of a guest: got 'web', expected one that is not in use"),
        (("remove", "nobody"), 1, "name of a guest: got 'nobody', expected one of this host's"),
    ],
)
def test_what_cannot_be_done_is_one_clear_line(
    tmp_path: Path, words: tuple[str, ...], code: int, message: str
) -> None:
    with running(tmp_path) as host:
        host.add("web")
        done = host.verb(*words)
        assert done.returncode == code
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
        assert list(host.rows()) == ["web"]


def test_a_directory_has_one_host_at_a_time(tmp_path: Path) -> None:
    with running(tmp_path) as host:
        command = [BALLONET, "host", "--directory", str(tmp_path)]
        second = subprocess.run(command, capture_output=True, text=True, check=False)
        assert second.returncode == 1
        assert "another program listens there" in second.stderr
        host.add("web")


def test_without_a_host_the_verbs_say_so(tmp_path: Path) -> None:
    command = [BALLONET, "host", "--directory", str(tmp_path), "list"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no monitor answers at" in done.stderr


def listed(memory: str) -> bytes:
    return b'{"version": 1, "guests": {"web": %s}}' % memory.encode()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"version": 9}',
        b'{"version": 1, "guests": {"/": 1}}',
        *(listed(memory) for memory in ("-1", "0", "true", "1.5", '"4G"', "1e300", "[]")),
        listed("9" * 5000),
    ],
)
def test_a_list_that_is_none_is_one_clear_line(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "host.json").write_bytes(raw)
    command = [BALLONET, "host", "--directory", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert len(done.stderr) < 500


def test_memory_that_no_guest_can_have_is_refused(tmp_path: Path) -> None:
    with running(tmp_path) as host, host.monitor() as client:
        for memory in (-1, 0, True, False, "4G", 1.5, 1 << 45, 10**30):
            answer = client.ask("x-ballonet-add-guest", name="web", memory=memory)
            assert "memory" in answer["error"]["desc"], memory
        assert client.ask("x-ballonet-query-guests") == {"return": []}
        assert [one.name for one in tmp_path.iterdir()] == ["host.qmp"]
