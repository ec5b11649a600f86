"""Machines that run here: found, named, asked at once, whatever some of them do."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer

import pytest
from tests.integration.host_under_test import running
from tests.integration.moving_guests import MovingGuest, device
from tests.support.odd_monitor import odd_monitor
from tests.support.programs import connected as connected_socket
from tests.support.programs import started, wait_for_listener
from tests.support.rest_machines import firecracker, program
from tests.support.wait import PATIENCE_S, wait_until

from ballonet.errors import GuestError
from ballonet.guests.kernel_package import find_kernel_package
from ballonet.vms.discovery import Found, look_at
from ballonet.vms.observation import MachineId
from ballonet.vms.processes import Process, processes
from ballonet.vms.sighting import Sighting
from ballonet.vms.unix_sockets import SocketTable
from ballonet.vms.watch import Watch

#: They see what runs on this machine, by name: one after the other.
pytestmark = pytest.mark.xdist_group("machines by name")

BALLONET = str(Path(sys.executable).with_name("ballonet"))
MIB = 1 << 20
PAUSES = ["-c", "import signal; signal.pause()"]


def ballonet(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BALLONET, *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        env={**os.environ, **environment},
    )


def listed(pattern: str) -> dict[str, dict[str, object]]:
    """What `ballonet list` tells, by `kind:name`."""
    done = ballonet("list", pattern, "--json")
    assert done.returncode == 0, done.stderr
    return {f"{row['kind']}:{row['name']}": row for row in json.loads(done.stdout)}


def test_guests_of_a_host_and_devices_are_found_and_named(tmp_path: Path) -> None:
    with (
        running(tmp_path / "host") as host,
        device(tmp_path, "disc-one"),
        MovingGuest(tmp_path, "guest", tmp_path / "disc-one"),
    ):
        host.add("disc-two")
        wait_until(
            lambda: listed("disc-one")["ballonet:disc-one"]["has_driver"],
            PATIENCE_S,
            "the driver does not come",
        )
        rows = listed("disc-*")
        assert set(rows) == {"ballonet:disc-one", "ballonet:disc-two"}
        one, two = rows["ballonet:disc-one"], rows["ballonet:disc-two"]
        assert one["memory_bytes"] == one["actual_bytes"]
        assert isinstance(one["host_bytes"], int)
        assert (two["memory_bytes"], two["has_driver"], two["why_not"]) == (None, False, None)
        assert two["pid"] == host.worker("disc-two")
        assert ballonet("set", "disc-one", "96M", "--wait").returncode == 0
        shown = ballonet("list", "disc-*", COLUMNS="80").stdout
        assert "96.0 MiB" in shown
        assert "no VMM is connected" in shown
        assert "no VMM is connected" in ballonet("info", "disc-two").stdout


def test_a_name_that_two_share_needs_the_kind(tmp_path: Path) -> None:
    with firecracker(tmp_path, "disc-twin"), device(tmp_path, "disc-twin-b"):
        (tmp_path / "disc-twin").mkdir()
        with device(tmp_path / "disc-twin", "qmp"):
            done = ballonet("info", "disc-twin")
            assert done.returncode == 1
            assert done.stderr == (
                "ballonet: 2 machines are named disc-twin: ballonet:disc-twin,"
                " firecracker:disc-twin\n"
            )
            assert "no VMM is connected" in ballonet("info", "ballonet:disc-twin").stdout
            assert "the guest keeps" in ballonet("info", "firecracker:disc-twin").stdout


def test_a_name_that_nobody_has_is_one_line() -> None:
    for verb in (("info",), ("set", "1G"), ("stats",), ("monitor",), ("migrate", "unix:/x")):
        done = ballonet(verb[0], "disc-nobody", *verb[1:])
        assert done.returncode == 1
        assert "no machine here is named disc-nobody" in done.stderr
        assert done.stderr.count("\n") == 1
    assert "named like disc-nob*" in ballonet("stats", "disc-nob*").stderr
    assert ballonet("list", "disc-nobody").stdout.startswith("no such VM runs here")


def test_the_shell_completes_names(tmp_path: Path) -> None:
    with device(tmp_path, "disc-complete"):
        done = ballonet(
            _BALLONET_COMPLETE="bash_complete", COMP_WORDS="ballonet info disc-c", COMP_CWORD="2"
        )
        assert done.stdout == "plain,disc-complete\n"
        done = ballonet(
            _BALLONET_COMPLETE="bash_complete", COMP_WORDS="ballonet info /ru", COMP_CWORD="2"
        )
        assert done.stdout == "file,/ru\n"


def test_a_dead_machine_is_named_with_why_it_is_not_reached(tmp_path: Path) -> None:
    arguments = ["--api-sock", str(tmp_path / "none"), "--id", "disc-dead"]
    with program("firecracker", [*PAUSES, *arguments]):
        row = listed("disc-dead")["firecracker:disc-dead"]
    assert "No such file or directory" in str(row["why_not"])
    assert row["memory_bytes"] is None


def test_a_monitor_that_another_has_is_told_with_program_and_process(tmp_path: Path) -> None:
    path = tmp_path / "qmp"
    serves = "import socket,signal,sys; s=socket.socket(1); s.bind(sys.argv[2][5:].split(',')[0])"
    serves += "; s.listen(); c=s.accept(); signal.pause()"
    arguments = ["-c", serves, "-qmp", f"unix:{path},server=on,wait=off"]
    with program("qemu-system-x86_64", [*arguments, "-name", "disc-taken"]):
        wait_for_listener(path)
        holding = "import socket,sys; s=socket.socket(1); s.connect(sys.argv[1]); sys.stdin.read()"
        command = [sys.executable, "-c", holding, str(path)]
        with started(command, stdin=subprocess.PIPE) as holder:
            wait_until(lambda: SocketTable().has_client(path), PATIENCE_S, "nobody connects")
            row = listed("disc-taken")["qemu:disc-taken"]
            info = ballonet("info", "disc-taken")
            holder.communicate()
    assert f"process {holder.pid} has it" in str(row["why_not"])
    assert (info.returncode, f"process {holder.pid} has it" in info.stderr) == (1, True)


class _Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True
    request_queue_size = 128  # as Firecracker's


@contextmanager
def served(path: Path, answer: Callable[[], bytes]) -> Iterator[Sighting]:
    """A Firecracker that answers everything so."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = answer()
            with suppress(OSError):  # whoever has asked waits no longer
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n"
                self.wfile.write(head.encode() + body)

    with _Server(str(path), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield Sighting(MachineId("firecracker", path.name, str(path), 1), str(path))
        finally:
            server.shutdown()


EVERYTHING = {
    "id": "x",
    "state": "Running",
    "amount_mib": 1,
    "stats_polling_interval_s": 0,
    "mem_size_mib": 64,
    "plugged_size_mib": 0,
}


def looked(sightings: list[Sighting], timeout_s: float = PATIENCE_S) -> list[Found]:
    return asyncio.run(look_at(sightings, timeout_s))


def test_one_that_is_slow_holds_up_no_other(tmp_path: Path) -> None:
    last_was_asked = threading.Event()

    def slow() -> bytes:
        # Were they asked one after the other, the last would wait for this one, and this for it.
        assert last_was_asked.wait(PATIENCE_S)
        return json.dumps(EVERYTHING).encode()

    def last() -> bytes:
        last_was_asked.set()
        return json.dumps(EVERYTHING).encode()

    with served(tmp_path / "slow", slow) as one, served(tmp_path / "last", last) as other:
        found = looked([one, other])
    assert [one.why_not for one in found] == ["", ""]
    assert [one.observation.memory_bytes for one in found] == [64 * MIB] * 2


def test_some_that_hang_cost_their_own_time_only(tmp_path: Path) -> None:
    never = threading.Event()

    def hangs() -> bytes:
        never.wait()
        return b""

    with (
        served(tmp_path / "one", lambda: json.dumps(EVERYTHING).encode()) as good,
        served(tmp_path / "bad", hangs) as bad,
    ):
        found = looked([*[bad] * 5, *[good] * 195], 5.0)
        never.set()
    assert ["5 s" in one.why_not for one in found] == [True] * 5 + [False] * 195
    assert sum(one.observation.memory_bytes == 64 * MIB for one in found) > 190


async def silent(watch: Watch, name: str, *, is_silent: bool) -> list[Found]:
    """Rounds until one machine keeps silent, or does not any more, and all others have answered."""
    while True:
        found = await watch.round(0.5)
        why_not = {one.sighting.who.name: one.why_not for one in found}
        if ("silent" in why_not.pop(name)) == is_silent and not any(why_not.values()):
            return found


def test_who_watches_waits_for_nobody_and_asks_nobody_twice(tmp_path: Path) -> None:
    may_answer = threading.Event()
    may_answer.set()
    unanswered: list[bool] = []

    def slow() -> bytes:
        unanswered.append(not may_answer.is_set())
        assert may_answer.wait(PATIENCE_S)
        return json.dumps(EVERYTHING).encode()

    async def watching(sightings: list[Sighting]) -> None:
        async def find() -> list[Sighting]:
            return sightings

        async with asyncio.timeout(PATIENCE_S), Watch(find=find) as watch:
            _, before = await silent(watch, "slow", is_silent=False)
            may_answer.clear()
            for _ in range(2):
                good, slow = await silent(watch, "slow", is_silent=True)
                assert good.observation.at_s > slow.observation.at_s == before.observation.at_s
                assert slow.observation.memory_bytes == 64 * MIB
                assert good.silent_s is None
                assert slow.silent_s is not None
            assert sum(unanswered) == 1
            may_answer.set()
            _, after = await silent(watch, "slow", is_silent=False)
            assert after.observation.at_s > before.observation.at_s

    with (
        served(tmp_path / "good", lambda: json.dumps(EVERYTHING).encode()) as good,
        served(tmp_path / "slow", slow) as bad,
    ):
        asyncio.run(watching([good, bad]))


def test_who_watches_waits_for_no_host_that_does_not_say_who_is_there(tmp_path: Path) -> None:
    asked: list[bool] = []

    async def watching(good: Sighting) -> None:
        async def find() -> list[Sighting]:
            asked.append(True)
            if len(asked) > 1:
                await asyncio.Event().wait()
            return [dying, good]

        async with asyncio.timeout(PATIENCE_S), Watch(find=find) as watch:
            with served(tmp_path / "dying", lambda: json.dumps(EVERYTHING).encode()) as dying:
                await watch.round(PATIENCE_S)
            while len(asked) < 2:
                _, before = await watch.round(0.2)
            for _ in range(2):
                dead, now = await watch.round(0.2)
                assert (dead.why_not != "", now.why_not) == (True, "")
                assert now.observation.at_s > before.observation.at_s
                before = now

    with served(tmp_path / "good", lambda: json.dumps(EVERYTHING).encode()) as good:
        asyncio.run(watching(good))
    assert len(asked) == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"[]",
        b"7",
        b"nonsense",
        b'{"id": 7}',
        b"[" * 50_000,
        json.dumps(EVERYTHING | {"mem_size_mib": "many"}).encode(),
        json.dumps(EVERYTHING | {"amount_mib": 10**30}).encode(),
        json.dumps(EVERYTHING | {"state": None}).encode(),
    ],
)
def test_one_that_makes_no_sense_is_told_so(tmp_path: Path, answer: bytes) -> None:
    with served(tmp_path / "odd", lambda: answer) as odd:
        (found,) = looked([odd])
    assert found.why_not
    assert found.observation.memory_bytes is None


def test_a_monitor_without_a_greeting_is_told_so(tmp_path: Path) -> None:
    path = tmp_path / "qmp"
    sighting = Sighting(MachineId("qemu", "odd", str(path), 1), str(path))
    with odd_monitor(path, lambda _: b"", b""):
        (found,) = looked([sighting])
    assert "has not greeted" in found.why_not


def test_a_path_in_a_jail_is_found_from_outside(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can put a process into a jail")
    try:
        busybox = find_kernel_package().busybox
    except GuestError as error:
        pytest.skip(str(error))
    (tmp_path / "busybox").write_bytes(busybox)
    (tmp_path / "busybox").chmod(0o755)
    command = ["chroot", str(tmp_path), "/busybox", "cat"]
    with started(command, stdin=subprocess.PIPE) as jailed:
        wait_until(lambda: _in_jail(jailed.pid, tmp_path), PATIENCE_S, "it is in no jail")
        path = Process(jailed.pid, ("firecracker",)).outside("/run/fc.sock")
        jailed.communicate()
    assert path == tmp_path / "run/fc.sock"


def _in_jail(pid: int, folder: Path) -> bool:
    return Path(f"/proc/{pid}/root").readlink() == folder


def test_who_serves_a_socket_and_who_is_connected_is_known(tmp_path: Path) -> None:
    with device(tmp_path, "served"):
        path = Path(f"{tmp_path / 'served'}.qmp")
        wait_for_listener(path)
        server = SocketTable().server_of(path)
        assert server is not None
        assert server.pid in [one.pid for one in processes()]
        with connected_socket(path):
            wait_until(lambda: SocketTable().has_client(path), PATIENCE_S, "nobody is connected")
            assert SocketTable().client_of(path) is None  # this process itself
    assert not SocketTable().has_client(path)
