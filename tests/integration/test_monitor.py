"""The monitor's sockets, with clients that behave and clients that do not."""

from __future__ import annotations

import asyncio
import json
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from tests.integration.device_under_test import SECONDS, Device, running_device
from tests.support.driver_ring import DriverRing
from tests.support.guest_memory import PAGE_BYTES
from tests.support.qmp_client import QmpClient
from tests.support.scripts import start_qemu, start_uml
from tests.support.session import STATS, Session
from tests.support.wait import PATIENCE_S, wait_until
from tests.unit.qmp.fake_machine import FakeMachine

from ballonet.balloon import page_ledger
from ballonet.device.balloon import BalloonSettings
from ballonet.device.state import DeviceState
from ballonet.errors import MonitorError
from ballonet.monitor.clients import CLIENTS_MAX
from ballonet.monitor.monitor import Monitor
from ballonet.monitor.outbox import Outbox
from ballonet.monitor.serving import monitoring
from ballonet.qmp import limiter
from ballonet.runtime.monitor_socket import MonitorSocket
from ballonet.vhost_user.listener import listening_socket


@pytest.fixture
def qmp(device: Device, tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "qmp"
    with listening_socket(path) as sock, monitoring(device.control, [sock]):
        yield path


@pytest.fixture
def guest(device: Device) -> Iterator[Session]:
    with start_uml(device) as made:
        yield made


def test_without_a_guest_there_is_no_balloon(qmp: Path) -> None:
    with QmpClient(qmp).negotiate() as client:
        wanted = {"class": "DeviceNotActive", "desc": "No balloon device has been activated"}
        assert client.ask("query-balloon") == {"error": wanted}
        assert client.ask("balloon", value=1 << 20) == {"error": wanted}
        line = {"command-line": "info balloon"}
        shown = client.ask("human-monitor-command", **line)
        assert shown == {"return": "Error: No balloon device has been activated\r\n"}


def test_a_target_reaches_the_guest_and_its_answer_every_client(qmp: Path, guest: Session) -> None:
    total = guest.ram.regions[0].size
    with QmpClient(qmp).negotiate() as one, QmpClient(qmp).negotiate() as other:
        assert one.ask("balloon", value=total - 100 * PAGE_BYTES) == {"return": {}}
        guest.front_end.read_backend_message()
        assert guest.read_num_pages() == 100
        guest.write_actual(100)
        for client in (one, other):
            event = client.wait_for("BALLOON_CHANGE")
            assert event["data"] == {"actual": total - 100 * PAGE_BYTES}
        assert other.ask("query-balloon") == {"return": {"actual": total - 100 * PAGE_BYTES}}


def test_an_actual_beyond_memory_is_shown_as_no_memory(qmp: Path, guest: Session) -> None:
    with QmpClient(qmp).negotiate() as client:
        guest.write_actual(0xFFFF_FFFF)
        wait_until(
            lambda: client.ask("query-balloon") == {"return": {"actual": 0}}, SECONDS, "not clamped"
        )


def test_what_was_put_off_is_dropped_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_ledger, "QUIET_NS", 1 << 60)
    monkeypatch.setattr(page_ledger, "AGE_NS_MAX", 1 << 60)
    settings = BalloonSettings()
    qmp = tmp_path / "qmp"
    with (
        running_device(tmp_path / "b.sock", settings) as device,
        listening_socket(qmp) as sock,
        monitoring(device.control, [sock]),
        start_uml(device.path) as guest,
        QmpClient(qmp).negotiate() as client,
    ):
        first, _ = guest.free_range()
        guest.inflate(range(first, first + 20))

        def info() -> dict[str, Any]:
            return dict(client.ask("x-ballonet-info")["return"])

        assert info()["waiting"] == 20 * PAGE_BYTES
        before = info()["host-memory"]
        assert client.ask("x-ballonet-expedite") == {"return": {}}
        wait_until(lambda: info()["waiting"] == 0, SECONDS, "it still waits")
        assert info()["counters"]["discarded-bytes"] == 20 * PAGE_BYTES
        assert info()["host-memory"] <= before


def test_a_guest_that_floods_actual_is_told_of_once_a_second(qmp: Path, guest: Session) -> None:
    with QmpClient(qmp).negotiate() as client:
        begin_s = time.monotonic()
        for pages in range(1, 2000):
            guest.write_actual(pages)
        last = guest.ram.regions[0].size - 1999 * PAGE_BYTES
        told = [client.wait_for("BALLOON_CHANGE")]
        while told[-1]["data"]["actual"] != last:
            told.append(client.wait_for("BALLOON_CHANGE"))
        # However slow the machine is: the seconds are at least those of the monitor.
        assert len(told) <= 2 + (time.monotonic() - begin_s)


def test_an_event_that_had_to_wait_says_what_was_so_when_it_happened(
    qmp: Path, device: Device
) -> None:
    with QmpClient(qmp).negotiate() as client:
        with start_uml(device) as guest:
            total = guest.ram.regions[0].size
            guest.write_actual(1)
            guest.write_actual(200)
        device.wait_until_free()
        told = [client.wait_for("BALLOON_CHANGE")["data"]["actual"] for _ in range(2)]
        assert told == [total - PAGE_BYTES, total - 200 * PAGE_BYTES]


def test_the_first_size_that_a_guest_reports_is_of_its_own_memory(
    qmp: Path, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was known of the device a moment before, when nobody shared memory with it."""
    monkeypatch.setattr("ballonet.control.commands._KEEP_NS", 1 << 60)
    with QmpClient(qmp).negotiate() as client, start_uml(device) as guest:
        guest.write_actual(1)
        told = client.wait_for("BALLOON_CHANGE")["data"]
        assert told == {"actual": guest.ram.regions[0].size - PAGE_BYTES}


def test_events_that_still_wait_at_the_end_are_told_before_it(
    device: Device, guest: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limiter, "EVENT_INTERVAL_NS", 1 << 60)
    path, total = tmp_path / "qmp", guest.ram.regions[0].size
    with ExitStack() as stack:
        with listening_socket(path) as sock, monitoring(device.control, [sock]):
            client = stack.enter_context(QmpClient(path)).negotiate()
            guest.write_actual(1)
            assert client.wait_for("BALLOON_CHANGE")
            guest.write_actual(200)
            wait_until(lambda: device.status().actual_pages == 200, SECONDS, "not written")
            assert client.ask("stop") == {"return": {}}
            if not client.events:
                client.wait_for("STOP")  # so what was posted before waits for its second now
        told = [client.line(), client.line(), client.line()]
    assert told[0]["data"] == {"actual": total - 200 * PAGE_BYTES}
    assert told[1]["event"] == "SHUTDOWN"
    assert told[2] is None


def test_what_a_request_waits_for_is_told(
    qmp: Path, device: Device, guest: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ballonet.balloon.request.STALLED_AFTER_NS", 1 << 60)
    with QmpClient(qmp).negotiate() as client:

        def stage() -> str:
            return str(client.ask("x-ballonet-info")["return"]["stage"])

        assert stage() == "none"
        client.ask("balloon", value=guest.ram.regions[0].size - 50 * PAGE_BYTES)
        guest.front_end.read_backend_message()
        assert stage() == "sent"
        guest.read_num_pages()
        assert stage() == "read"
        guest.write_actual(20)
        assert stage() == "moving"
        monkeypatch.setattr("ballonet.balloon.request.STALLED_AFTER_NS", 0)
        wait_until(lambda: stage() == "stalled", SECONDS, "not stalled")
        assert client.wait_for("x-ballonet-out-of-puff")["data"]["target"] == 50 * PAGE_BYTES
        guest.write_actual(50)
        assert stage() == "reached"
        request = client.ask("x-ballonet-info")["return"]["request"]
        assert request["asked-ms-ago"] >= request["sent-ms-ago"] >= request["read-ms-ago"]
    assert device.status().connected


def test_a_guest_that_does_not_look_is_called_unresponsive(qmp: Path, guest: Session) -> None:
    with QmpClient(qmp).negotiate() as client:
        client.ask("balloon", value=guest.ram.regions[0].size - 50 * PAGE_BYTES)
        assert client.wait_for("x-ballonet-guest-unresponsive")


def test_a_broken_ring_is_told_of(qmp: Path, guest: Session) -> None:
    with QmpClient(qmp).negotiate() as client:
        ring = guest.rings[0]
        assert isinstance(ring, DriverRing)
        ring.set_avail_idx(1000)
        guest.front_end.kick(0)
        assert "jumped" in client.wait_for("x-ballonet-device-broken")["data"]["reason"]


def test_polling_by_the_monitor_asks_the_guest(qmp: Path, device: Device) -> None:
    path = "/machine/peripheral-anon/device[0]"
    prop = "guest-stats-polling-interval"
    with start_qemu(device) as guest, QmpClient(qmp).negotiate() as client:
        guest.put_stats([(4, 1 << 20)])
        assert client.ask("qom-set", path=path, property=prop, value=1) == {"return": {}}
        assert guest.wait_used(STATS)
        asked_s = int(time.time())
        guest.put_stats([(4, 2 << 20)])

        def stats() -> dict[str, Any]:
            return dict(client.ask("qom-get", path=path, property="guest-stats")["return"])

        wait_until(
            lambda: stats()["stats"]["stat-free-memory"] == 2 << 20, SECONDS, "no statistics"
        )
        assert stats()["last-update"] >= asked_s
        assert client.ask("stop") == {"return": {}}
        assert not guest.front_end.wait_call(STATS, 1.5)
        assert client.ask("cont") == {"return": {}}
        assert guest.wait_used(STATS)


def test_a_restored_poll_interval_is_shown(tmp_path: Path) -> None:
    qmp, state = tmp_path / "qmp", tmp_path / "state"
    state.write_text(json.dumps(DeviceState(poll_interval_s=7).as_fields()))
    with (
        listening_socket(qmp) as qmp_sock,
        running_device(tmp_path / "b.sock", state_path=state) as device,
        monitoring(device.control, [qmp_sock]),
        QmpClient(qmp).negotiate() as client,
    ):
        shown = client.ask(
            "qom-get",
            path="/machine/peripheral-anon/device[0]",
            property="guest-stats-polling-interval",
        )
        assert shown == {"return": 7}


def test_a_device_paused_by_anyone_is_shown_as_paused(qmp: Path, device: Device) -> None:
    with QmpClient(qmp).negotiate() as client:
        device.control.pause().result(PATIENCE_S)
        assert client.ask("query-status")["return"]["status"] == "paused"
        assert client.ask("x-ballonet-info")["return"]["paused"] is True
        assert client.ask("cont") == {"return": {}}
        client.wait_for("RESUME")
        assert client.ask("query-status")["return"]["running"] is True
        assert not device.status().paused


def test_a_device_that_is_busy_holds_up_nobody_but_who_asks_it(qmp: Path, device: Device) -> None:
    is_over = threading.Event()
    with QmpClient(qmp).negotiate() as waiting, QmpClient(qmp).negotiate() as other:

        def be_busy() -> None:
            is_over.wait(PATIENCE_S)

        device.control.server.loop.post(be_busy)
        waiting.socket.sendall(b'{"execute": "x-ballonet-info"}')
        for _ in range(20):
            assert other.ask("query-status")["return"]["running"]
        assert select.select([waiting.socket], [], [], 0)[0] == []
        is_over.set()
        assert waiting.line()["return"]["stage"] == "none"


def test_clients_that_misbehave_are_no_hindrance_to_one_that_does_not(
    qmp: Path, guest: Session
) -> None:
    with ExitStack() as stack:
        for number in range(12):
            rude = stack.enter_context(QmpClient(qmp))
            rude.socket.setblocking(False)
            for _ in range(50):
                try:
                    rude.socket.sendall(_RUDE[number % len(_RUDE)])
                except OSError:
                    break
        with QmpClient(qmp).negotiate() as client:
            assert client.ask("query-balloon")["return"]["actual"]
        first, _ = guest.free_range()
        for page in range(50):
            assert guest.inflate([first + page]).length == 0


_RUDE = (
    b"[" * 100_000,
    b'{"execute": "query-version"}\n' * 2000,
    b"\xff\x00garbage\n" * 5000,
    b'{"execute": "qmp_capa',
    b'{"execute":"qmp_capabilities"}' + b'{"execute": "query-qmp-schema"}' * 3000,
    b'"' + b"x" * 100_000,
)


def test_a_client_that_never_reads_is_cut_off(qmp: Path) -> None:
    with QmpClient(qmp).negotiate() as client:
        client.socket.settimeout(SECONDS)
        with pytest.raises(OSError):  # noqa: PT011, PT012 - reset or broken pipe, sooner or later
            while True:
                client.socket.sendall(b'{"execute": "query-qmp-schema"}' * 30)


def test_one_client_too_many_is_turned_away(qmp: Path) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(QmpClient(qmp)) for _ in range(CLIENTS_MAX)]
        assert all("QMP" in client.line() for client in clients)
        with QmpClient(qmp) as late:
            assert late.line() is None
        clients[0].socket.close()


def test_the_end_is_told_and_leaves_nothing_behind(device: Device, tmp_path: Path) -> None:
    path = tmp_path / "qmp"
    threads = set(threading.enumerate())
    for questions in range(0, 400, 20):  # the last event and the end meet in every order
        with ExitStack() as stack:
            with listening_socket(path) as sock, monitoring(device.control, [sock]):
                client = stack.enter_context(QmpClient(path)).negotiate()
                for _ in range(questions):
                    assert client.ask("query-version")
            assert set(threading.enumerate()) == threads
            end = client.wait_for("SHUTDOWN")["data"]
            assert end == {"guest": False, "reason": "host-signal"}
            assert client.line() is None


def test_a_client_that_does_not_read_does_not_hold_up_the_end(
    device: Device, tmp_path: Path
) -> None:
    path, threads = tmp_path / "qmp", set(threading.enumerate())
    with ExitStack() as stack:
        with listening_socket(path) as sock, monitoring(device.control, [sock]):
            deaf = stack.enter_context(QmpClient(path)).negotiate()
            with suppress(OSError):
                for _ in range(60):
                    deaf.socket.sendall(b'{"execute": "query-qmp-schema"}')
            other = stack.enter_context(QmpClient(path)).negotiate()
        assert set(threading.enumerate()) == threads
        assert other.wait_for("SHUTDOWN")


def test_a_monitor_runs_on_a_loop_that_is_there_already(tmp_path: Path) -> None:
    async def serve() -> None:
        with listening_socket(tmp_path / "qmp") as sock:
            monitor = Monitor(None, [sock], Outbox())
            monitor.begin()
            assert monitor.is_idle
            reader, writer = await asyncio.open_unix_connection(str(tmp_path / "qmp"))
            assert b"QMP" in await reader.readline()
            assert not monitor.is_idle
            await monitor.end()
            assert await reader.read() == b""
            assert monitor.is_idle
            writer.close()
            await writer.wait_closed()
            assert len(asyncio.all_tasks()) == 1

    asyncio.run(serve())


def test_a_client_that_does_not_read_is_gone_when_the_monitor_has_ended(tmp_path: Path) -> None:
    async def serve(deaf: socket.socket) -> None:
        with listening_socket(tmp_path / "qmp") as sock:
            monitor = Monitor(FakeMachine(), [sock], Outbox())
            monitor.begin()
            deaf.connect(str(tmp_path / "qmp"))
            deaf.sendall(b'{"execute": "qmp_capabilities"}')
            deaf.sendall(b'{"execute": "query-qmp-schema"}' * 60)
            reader, writer = await asyncio.open_unix_connection(str(tmp_path / "qmp"))
            writer.write(b'{"execute": "qmp_capabilities"}' + b'{"execute": "query-name"}' * 100)
            for _ in range(102):
                await reader.readline()
            writer.close()
            await monitor.end()
            assert monitor.is_idle
            assert len(asyncio.all_tasks()) == 1

    with socket.socket(socket.AF_UNIX) as deaf:
        asyncio.run(serve(deaf))


@pytest.mark.parametrize("files", range(5, 16))
def test_too_few_descriptors_are_said_in_one_line(files: int, tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("ballonet")
    command = f"ulimit -n {files}; exec {program} device --socket-path b --qmp unix:qmp"
    with subprocess.Popen(
        ["sh", "-c", command], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as started:
        try:
            wait_until(
                lambda: started.poll() is not None or (tmp_path / "qmp").exists(),
                PATIENCE_S,
                "it neither serves nor ends",
            )
            started.terminate()
            _, said = started.communicate(timeout=PATIENCE_S)
        finally:
            started.kill()
    if started.returncode == 1:
        assert said.count("\n") == 1, said
        assert "open files" in said
    else:
        assert started.returncode in {0, 128 + signal.SIGTERM}, said


def test_a_program_that_asks_and_waits_leaves_nothing_open(qmp: Path, tmp_path: Path) -> None:
    def epolls() -> int:
        count = 0
        for descriptor in Path("/proc/self/fd").iterdir():
            with suppress(FileNotFoundError):  # the one that was open to read the list
                count += "[eventpoll]" in str(descriptor.readlink())
        return count

    asyncio.set_event_loop(None)  # whatever a test before left behind
    before = epolls()
    for _ in range(3):
        monitor = MonitorSocket(qmp)
        assert monitor.execute("query-status")["running"] is True
        monitor.close()
        monitor.close()
    with pytest.raises(MonitorError, match="no monitor answers"):
        MonitorSocket(tmp_path / "nobody")
    assert epolls() == before


def test_an_interval_that_somebody_has_just_chosen_stays(device: Device) -> None:
    stats, goes_on = device.control.stats, threading.Event()
    stats.set_poll_interval(1).result(SECONDS)
    held = device.control.server.loop.put(lambda: goes_on.wait(SECONDS))
    chosen = stats.set_poll_interval(77)  # waits, and so does
    changed = stats.change_poll_interval(0, 1)
    goes_on.set()
    chosen.result(SECONDS)
    changed.result(SECONDS)
    assert held.result(SECONDS)
    assert device.control.status().poll_interval_s == 77
    stats.change_poll_interval(0, 77).result(SECONDS)
    assert device.control.status().poll_interval_s == 0
