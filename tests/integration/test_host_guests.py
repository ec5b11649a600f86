"""All guests of a host in one question: what each tells itself, whatever one of them does."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.integration.host_under_test import HostProcess, running
from tests.support.qmp_client import QmpClient
from tests.support.scripts import start_uml
from tests.support.wait import PATIENCE_S, wait_until

from ballonet.device.balloon import BalloonSettings
from ballonet.guests.embedded import EmbeddedGuestSettings
from ballonet.guests.embedded_process import EmbeddedGuest
from ballonet.host import guest_process
from ballonet.host.guest_process import GuestProcess
from ballonet.host.worker import WorkerSettings
from ballonet.host.worker_status import STATUS_BYTES
from ballonet.qmp.version import NEWEST
from ballonet.virtio.stats import STATS, UNSET
from ballonet.vms.device_info import DeviceInfo
from ballonet.vms.discovery import Found, look_at
from ballonet.vms.find_ours import guests_of_host
from ballonet.vms.host_guests import observe_all
from ballonet.vms.observation import Observation
from ballonet.vms.poll_keeper import PollKeeper
from ballonet.vms.sighting import Sighting
from ballonet.vms.watch import Watch

MIB = 1 << 20
SECONDS = 3600  # between two questions for statistics: no second one comes in a test
ASK_S = 0.2
UNRESPONSIVE = "the process of its device does not answer"


def observed(host: HostProcess) -> Mapping[str, Observation | str]:
    return asyncio.run(observe_all(str(host.directory)))


def look(host: HostProcess, name: str) -> Observation:
    found = observed(host)[name]
    assert isinstance(found, Observation), found
    return found


def sighting_of(host: HostProcess, name: str) -> Sighting:
    found = asyncio.run(guests_of_host(host.directory))
    return next(one for one in found if one.who.name == name)


def own_look(sighting: Sighting) -> Observation:
    """By its own monitor."""
    (found,) = asyncio.run(look_at([replace(sighting, place="")]))
    assert not found.why_not
    return found.observation


def poll(host: HostProcess, name: str, interval_s: int) -> None:
    with QmpClient(host.directory / f"{name}.qmp") as client:
        path, prop = "/machine/peripheral/balloon0", "guest-stats-polling-interval"
        client.negotiate().ask("qom-set", path=path, property=prop, value=interval_s)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def guest(path: Path) -> Iterator[EmbeddedGuest]:
    with EmbeddedGuest(EmbeddedGuestSettings(128 * MIB, path)) as machine:
        yield machine


def ageless(look: Observation) -> Observation:
    """Without what is another a moment later."""
    statistics = {name: one._replace(age_s=None) for name, one in look.statistics.items()}
    device = replace(device_of(look), stats_age_s=None, request_age_s={})
    return replace(look, at_s=0.0, statistics=statistics, device=device)


def ages(look: Observation) -> dict[str, float]:
    device = device_of(look)
    found = {f"request {name}": age_s for name, age_s in device.request_age_s.items()}
    found |= {"statistics": device.stats_age_s, "moment": look.at_s}
    found |= {f"statistic {name}": one.age_s for name, one in look.statistics.items()}
    return {name: age_s for name, age_s in found.items() if age_s is not None}


def device_of(look: Observation) -> DeviceInfo:
    assert look.device is not None
    return look.device


def test_the_host_tells_of_a_guest_what_its_own_monitor_tells(tmp_path: Path) -> None:
    with running(tmp_path) as host, guest(host.add("web")) as machine:
        sighting = sighting_of(host, "web")
        poll(host, "web", SECONDS)
        wait_until(lambda: look(host, "web").statistics, PATIENCE_S, "no statistics come")
        with stopped(machine.pid):
            host.balloon("web", "96M")  # it is on its way, and nothing moves
            before, told, after = own_look(sighting), look(host, "web"), own_look(sighting)
    assert ageless(told) == ageless(before) == ageless(after)
    for name, age_s in ages(told).items():
        assert ages(before)[name] <= age_s <= ages(after)[name], name
    assert (told.target_bytes, told.actual_bytes) == (96 * MIB, 128 * MIB)
    assert (told.poll_interval_s, told.has_driver, told.paused) == (SECONDS, True, False)
    assert told.host.held_bytes
    assert len(told.statistics) > 5
    assert set(told.statistics) >= {"memfree", "memtot", "avail"}
    assert device_of(told).stage == "sent"
    assert device_of(told).counters["stats_messages"] > 0


def test_the_host_tells_of_a_guest_that_is_not_there_what_its_own_monitor_tells(
    tmp_path: Path,
) -> None:
    with running(tmp_path) as host:
        host.add("web")
        sighting = sighting_of(host, "web")
        assert sighting.place == str(tmp_path)
        own, told = own_look(sighting), look(host, "web")
    assert ageless(told) == ageless(own)
    assert (told.memory_bytes, told.statistics, told.stats_age_s) == (None, {}, None)
    assert not device_of(told).connected


def test_what_a_driver_does_not_send_is_null_and_has_qemus_name(tmp_path: Path) -> None:
    def row() -> dict[str, Any]:
        (one,) = client.ask("x-ballonet-observe-guests")["return"]
        return dict(one)

    with (
        running(tmp_path) as host,
        start_uml(host.add("web")) as session,
        host.monitor() as client,
    ):
        stats = row()["guest-stats"]
        assert stats["stats"] == dict.fromkeys((one.qemu_key for one in STATS), None)
        assert (stats["last-update"], row()["stats-age"]) == (None, None)
        session.put_stats([(4, 0), (5, 7 << 20), (6, UNSET)])
        stats = wait_until(
            lambda: row()["guest-stats"]["last-update"] and row()["guest-stats"], 10, "none come"
        )
        known = {key: value for key, value in stats["stats"].items() if value is not None}
        assert known == {"stat-free-memory": 0, "stat-total-memory": 7 << 20}


def test_nobody_is_observed_of_a_host_without_guests(tmp_path: Path) -> None:
    with running(tmp_path) as host:
        assert observed(host) == {}


def test_a_guest_is_observed_without_its_own_monitor(tmp_path: Path) -> None:
    with running(tmp_path) as host, guest(host.add("web")):
        (tmp_path / "web.qmp").unlink()
        assert look(host, "web").has_driver


def test_a_worker_that_hangs_has_no_figures_and_holds_up_no_other(tmp_path: Path) -> None:
    async def watching() -> None:
        found: list[None] = []

        async def find() -> list[Sighting]:
            found.append(None)
            return await guests_of_host(tmp_path)

        async with Watch(find=find) as watch:
            before = by_name(await watch.round(PATIENCE_S))
            with stopped(stuck):
                hanging = [by_name(await watch.round(PATIENCE_S)) for _ in range(3)]
            assert len(found) == 2  # once because one does not answer any more, and not again
            assert before["stuck"].why_not == before["good"].why_not == ""
            for told in hanging:
                assert (told["stuck"].why_not, told["good"].why_not) == (UNRESPONSIVE, "")
                assert told["stuck"].observation.actual_bytes is None
                assert told["stuck"].observation.device is None
            moments = [one["good"].observation.at_s for one in (before, *hanging)]
            assert moments == sorted(set(moments))

    with running(tmp_path) as host:
        for name in ("good", "stuck"):
            host.add(name)
        stuck = host.worker("stuck")
        asyncio.run(watching())
        wait_until(lambda: isinstance(observed(host)["stuck"], Observation), 10, "it answers again")


def test_a_worker_that_hangs_holds_up_the_first_to_ask_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang(*_: object) -> None:
        while True:
            os.kill(os.getpid(), signal.SIGSTOP)

    async def asking() -> None:
        process = GuestProcess(settings, lambda *_: None)
        process.start()
        try:
            assert await process.ask(ASK_S) is None
            # Were it waited for anew, the shorter of two timers would come first.
            loop = asyncio.get_running_loop()
            shorter = loop.create_future()
            loop.call_later(ASK_S / 2, shorter.set_result, None)
            asked = asyncio.ensure_future(process.ask(ASK_S))
            done, _ = await asyncio.wait({shorter, asked}, return_when=asyncio.FIRST_COMPLETED)
            assert asked in done
            assert await asked is None
            await shorter
        finally:
            os.kill(process.pid or 0, signal.SIGKILL)
            await process.end()

    monkeypatch.setattr(guest_process, "become_worker", hang)
    with socket.socket() as sock, socket.socket() as qmp:
        settings = WorkerSettings(
            "stuck", None, BalloonSettings(), tmp_path / "state", None, sock, qmp, -1, NEWEST
        )
        asyncio.run(asking())


def by_name(found: list[Found]) -> dict[str, Found]:
    return {one.sighting.who.name: one for one in found}


def test_a_guest_whose_worker_dies_is_observed_again(tmp_path: Path) -> None:
    with running(tmp_path) as host:
        host.add("web")
        for _ in range(3):  # a pause that is long enough to look in
            before = host.worker("web")
            os.kill(before, signal.SIGKILL)
            wait_until(lambda: host.rows()["web"]["pid"] != before, 10, "it is seen")  # noqa: B023
            told = wait_until(lambda: observed(host)["web"], 10, "it is told of")
            if isinstance(told, str):
                assert told == "the process of its device has ended, and is started again"
            wait_until(lambda: isinstance(observed(host)["web"], Observation), 10, "it is back")
        assert look(host, "web").who.pid == host.worker("web") != before


@pytest.mark.parametrize(
    "raw",
    [b"", b"x", b"\xff" * STATUS_BYTES, bytes(STATUS_BYTES + 1)],
    ids=["nothing", "short", "odd", "long"],
)
def test_a_worker_that_sends_nonsense_is_replaced(tmp_path: Path, raw: bytes) -> None:
    with running(tmp_path) as host, host.monitor() as events:
        for name in ("good", "odd"):
            host.add(name)
        worker = host.worker("odd")
        with taken_over(worker) as control:
            control.send(raw)
            found = observed(host)
        assert isinstance(found["odd"], str)  # it was killed a moment ago
        assert isinstance(found["good"], Observation)
        data = events.wait_for("x-ballonet-guest-restarting")["data"]
        assert (data["name"], data["reason"]) == ("odd", "killed by SIGKILL")
        wait_until(lambda: isinstance(observed(host)["odd"], Observation), 10, "it is back")


@contextmanager
def taken_over(worker: int) -> Iterator[socket.socket]:
    """A worker that says to its supervisor what it is told to."""
    os.kill(worker, signal.SIGSTOP)
    pidfd = os.pidfd_open(worker)
    libc = ctypes.CDLL(None, use_errno=True)
    for link in Path(f"/proc/{worker}/fd").iterdir():
        fd = libc.syscall(438, pidfd, int(link.name), 0)  # pidfd_getfd(2)
        if fd < 0:
            pytest.skip(f"no descriptor of a worker can be had: {os.strerror(ctypes.get_errno())}")
        if not str(link.readlink()).startswith("socket:"):
            os.close(fd)
            continue
        control = socket.socket(fileno=fd)
        if control.type is socket.SOCK_SEQPACKET:
            break
        control.close()
    with control:
        yield control
    os.close(pidfd)


def test_guests_that_nobody_polls_are_polled_by_their_host_and_left_as_before(
    tmp_path: Path,
) -> None:
    async def keeping() -> None:
        sightings = await guests_of_host(tmp_path)
        keeper = PollKeeper(5)
        try:
            for _ in range(2):
                await keeper.keep(await look_at(sightings))
            assert await intervals(sightings) == {"web": 5, "db": SECONDS}
        finally:
            await keeper.put_back()
        assert await intervals(sightings) == {"web": 0, "db": SECONDS}

    with running(tmp_path) as host, guest(host.add("web")), guest(host.add("db")):
        poll(host, "db", SECONDS)
        for name in ("web", "db"):  # nobody needs their own monitors
            (tmp_path / f"{name}.qmp").unlink()
        asyncio.run(keeping())


async def intervals(sightings: list[Sighting]) -> dict[str, int | None]:
    return {
        one.sighting.who.name: one.observation.poll_interval_s for one in await look_at(sightings)
    }


def test_who_was_polled_otherwise_meanwhile_is_left_alone(tmp_path: Path) -> None:
    async def keeping() -> None:
        keeper = PollKeeper(5)
        await keeper.keep(await look_at(sightings))
        poll(host, "web", 7)
        await keeper.put_back()
        assert await intervals(sightings) == {"web": 7}

    with running(tmp_path) as host, guest(host.add("web")):
        sightings = [sighting_of(host, "web")]
        asyncio.run(keeping())


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"interval": 1},
        {"interval": -1, "instead-of": 0},
        {"interval": True, "instead-of": 0},
        {"interval": 1 << 32, "instead-of": 0},
        {"interval": 1, "instead-of": 0, "names": "web"},
        {"interval": 1, "instead-of": 0, "names": [7]},
    ],
)
def test_polling_that_makes_no_sense_is_refused(
    tmp_path: Path, arguments: dict[str, object]
) -> None:
    with running(tmp_path) as host, host.monitor() as client:
        assert "error" in client.ask("x-ballonet-poll-guests", **arguments)
