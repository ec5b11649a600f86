"""Hosts of Hyper-V's and VMware's balloon with embedded guests, all of them processes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.device_under_test import DeviceProcess
from tests.integration.siblings_under_test import (
    BALLONET,
    KINDS,
    MEMORY_BYTES,
    MIB,
    PAGE,
    HostProcess,
    guest_of,
)
from tests.support.programs import started
from tests.support.qmp_client import QmpClient
from tests.support.sibling_guest import ALL_CAPABILITIES, BATCHED_LOCK, START, RawGuest
from tests.support.small_disk import small_disk
from tests.support.wait import PATIENCE_S, wait_until

from ballonet.errors import GuestError
from ballonet.guests.embedded_process import EmbeddedGuest

BALLOON = 96 * MIB
#: Of what a process in the guest keeps meanwhile, each page with a mark of its own.
KEPT = 16 * MIB


@pytest.fixture(params=KINDS)
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[HostProcess]:
    with HostProcess(tmp_path, request.param) as process:
        yield process


@pytest.fixture
def guest(host: HostProcess) -> Iterator[EmbeddedGuest]:
    with guest_of(host) as process:
        host.wait_for_driver()
        yield process


def ballonet(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """One command of the program, to its end."""
    return subprocess.run(
        [BALLONET, *arguments], capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )


def stats_of(host: HostProcess) -> dict[str, int]:
    """What `ballonet stats` prints; nothing, if no fresh ones came in its time."""
    done = ballonet("stats", host.monitor_path, "--json")
    return dict(json.loads(done.stdout)["stats"]) if done.returncode == 0 else {}


def check_kept(guest: EmbeddedGuest) -> None:
    """Every page that a process kept has its mark, else the guest's kernel gives up."""
    assert guest.ask("release_hogs") == 1


def test_host_memory_falls_and_rises_with_the_balloon_and_no_byte_is_lost(
    host: HostProcess, guest: EmbeddedGuest
) -> None:
    assert guest.ask("hog", size=KEPT) is True
    guest.use_memory(90)
    used = guest.host_memory_bytes()
    assert used > BALLOON + KEPT
    host.set_balloon(BALLOON)
    ballooned = guest.host_memory_bytes()
    assert ballooned <= MEMORY_BYTES - BALLOON
    assert ballooned >= KEPT
    assert guest.ask("driver")["actual_pages"] * PAGE == BALLOON
    assert host.do("query-balloon") == {"actual": MEMORY_BYTES - BALLOON}
    assert host.info()["host-memory"] == ballooned
    host.set_balloon(0)
    assert guest.ask("driver")["actual_pages"] == 0
    guest.use_memory(90)
    assert guest.host_memory_bytes() > ballooned + BALLOON // 2
    check_kept(guest)


def test_a_guest_that_is_killed_is_followed_by_another_one(
    host: HostProcess, guest: EmbeddedGuest
) -> None:
    host.set_balloon(BALLOON)
    os.kill(guest.pid, 9)
    host.wait_until_free()
    assert host.info()["actual-pages"] == 0
    with guest_of(host) as other:
        wanted = BALLOON // PAGE  # the target is the host's, and stays
        wait_until(
            lambda: other.ask("driver")["actual_pages"] == wanted, PATIENCE_S, "no balloon again"
        )
        assert host.is_alive()
        host.set_balloon(0)


def test_a_guest_goes_on_with_a_host_that_was_started_anew(
    host: HostProcess, guest: EmbeddedGuest
) -> None:
    assert guest.ask("hog", size=KEPT) is True
    total = guest.meminfo()["MemTotal"]
    host.set_balloon(BALLOON)
    assert guest.meminfo()["MemTotal"] == total - BALLOON
    host.kill()
    host.start()
    host.wait_for_driver()
    assert guest.ask("driver")["reconnections"] == 1
    # What the lost host had is the guest's again, and the new one has asked for nothing yet.
    wait_until(
        lambda: guest.ask("driver")["actual_pages"] == 0, PATIENCE_S, "the old balloon is kept"
    )
    assert guest.meminfo()["MemTotal"] == total
    host.set_balloon(BALLOON)
    host.set_balloon(0)
    guest.use_memory(90)
    check_kept(guest)


def test_vmware_s_driver_hears_of_another_host_by_a_reset(tmp_path: Path) -> None:
    with HostProcess(tmp_path, "vmware") as host, guest_of(host) as guest:
        host.wait_for_driver()
        assert guest.ask("driver")["pages"]["reset"] == 1
        host.kill()
        host.start()
        host.wait_for_driver()
        assert guest.ask("driver")["pages"]["reset"] == 2


@pytest.mark.parametrize("other", ["hyperv", "virtio"])
def test_a_guest_with_another_balloon_is_told_why_it_is_refused(tmp_path: Path, other: str) -> None:
    with HostProcess(tmp_path, "vmware") as host:
        done = ballonet("guest", "embedded", "--balloon", other, "--socket", host.path)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        if other == "hyperv":
            assert "this is a host of vmware, not of hyperv" in done.stderr
        with guest_of(host):
            host.wait_for_driver()


def test_a_second_guest_is_turned_away(host: HostProcess, guest: EmbeddedGuest) -> None:
    with pytest.raises(GuestError, match="this host has a guest already"):
        guest_of(host).start()
    assert guest.ask("driver")["reconnections"] == 0
    host.set_balloon(BALLOON)


def test_a_guest_without_a_host_says_so(tmp_path: Path) -> None:
    command = ("guest", "embedded", "--balloon", "hyperv", "--socket", tmp_path / "nobody")
    done = ballonet(*command)
    assert done.returncode == 1
    assert "no host of hyperv answers" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_host_that_ends_leaves_nothing_behind(host: HostProcess, guest: EmbeddedGuest) -> None:
    assert guest.is_running
    assert host.stop() == 0
    assert not host.path.exists()
    assert not host.monitor_path.exists()
    assert host.log() == []


def test_clients_are_told_of_each_change(host: HostProcess, guest: EmbeddedGuest) -> None:
    assert guest.is_running
    host.do("balloon", value=MEMORY_BYTES - BALLOON)
    while True:
        event = host.qmp.wait_for("BALLOON_CHANGE")
        if event["data"] == {"actual": MEMORY_BYTES - BALLOON}:
            break


def test_set_and_info_work_as_with_any_machine(host: HostProcess, guest: EmbeddedGuest) -> None:
    assert guest.is_running
    size = MEMORY_BYTES - BALLOON
    deadline = ("--deadline", f"{PATIENCE_S}s")
    done = ballonet("set", host.monitor_path, f"{size}B", "--wait", *deadline, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["actual_bytes"] == size
    told = json.loads(ballonet("info", host.monitor_path, "--json").stdout)
    assert told["logical_bytes"] == size
    assert told["has_driver"] is True
    expected = "version 2.0" if host.kind == "hyperv" else "batched-2m"
    assert expected in told["device"]["features"]
    refused = ballonet("set", host.monitor_path, "1M")
    assert refused.returncode == 1
    assert "35 % of its memory" in refused.stderr


def test_no_balloon_is_shown_while_there_is_no_guest(host: HostProcess) -> None:
    text = "No balloon device has been activated"
    assert host.refused("query-balloon") == text
    assert host.refused("balloon", value=64 * MIB) == text


def test_there_are_no_free_page_hints(host: HostProcess) -> None:
    assert host.refused("x-ballonet-begin-hints") == (
        f"a balloon of {host.kind} gives no free page hints"
    )


def test_statistics_of_vmware_s_guests_do_not_exist(tmp_path: Path) -> None:
    with HostProcess(tmp_path, "vmware") as host, guest_of(host):
        host.wait_for_driver()
        assert host.refused("query-hv-balloon-status-report") == "no hv-balloon device present"
        done = ballonet("stats", host.monitor_path)
        assert done.returncode == 1
        assert "VMware's balloon tells nothing about the guest's memory" in done.stderr
        assert host.info()["stats"] == "VMware's balloon tells nothing about the guest's memory"


def test_a_virtio_balloon_has_no_status_reports(tmp_path: Path) -> None:
    path = tmp_path / "qmp"
    options = ("--qmp", f"unix:{path},server=on,wait=off")
    with (
        DeviceProcess(tmp_path / "device", tmp_path / "log", *options),
        QmpClient(path) as client,
    ):
        reply = client.negotiate().ask("query-hv-balloon-status-report")
        assert reply["error"] == {"class": "GenericError", "desc": "no hv-balloon device present"}


def test_status_reports_are_told_in_qemu_s_words(tmp_path: Path) -> None:
    with HostProcess(tmp_path, "hyperv", "--status-report") as host:
        text = "no guest memory status report received yet"
        assert host.refused("query-hv-balloon-status-report") == text
        with guest_of(host, speed=50):  # Linux keeps the first 45 reports to itself
            data = host.qmp.wait_for("HV_BALLOON_STATUS_REPORT")["data"]
            assert set(data) == {"committed", "available"}
            assert 0 < data["available"] < MEMORY_BYTES
            assert 0 < data["committed"] < MEMORY_BYTES
            assert set(host.do("query-hv-balloon-status-report")) == {"committed", "available"}
            told = wait_until(lambda: stats_of(host), PATIENCE_S, "no statistics")
            assert 0 < told["available_memory_bytes"] < MEMORY_BYTES
            assert host.info()["stats"] == "the driver answers"
        host.wait_until_free()
        assert host.refused("query-hv-balloon-status-report") == text


def test_status_reports_are_not_there_unless_asked_for(tmp_path: Path) -> None:
    with HostProcess(tmp_path, "hyperv") as host, guest_of(host):
        host.wait_for_driver()
        text = "guest memory status reporting not enabled"
        assert host.refused("query-hv-balloon-status-report") == text
        done = ballonet("stats", host.monitor_path)
        assert done.returncode == 1
        assert "--status-report" in done.stderr


def test_a_capability_that_is_not_granted_is_not_used(tmp_path: Path) -> None:
    with (
        HostProcess(tmp_path, "vmware", "--capabilities", "basic,doorbell") as host,
        guest_of(host) as guest,
    ):
        host.wait_for_driver()
        host.set_balloon(4 * MIB)
        calls = guest.ask("driver")["calls"]
        assert calls["lock"] >= 4 * MIB // PAGE
        assert not {"batchLock", "2m-lock"} & set(calls)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("vmware", ("start: ", "2m-lock: ", "actual changed")),
        ("hyperv", ("VersionRequest: ", "BalloonRequest sent: ", "BalloonResponse: ")),
    ],
)
def test_what_is_said_can_be_read_later(tmp_path: Path, kind: str, words: tuple[str, ...]) -> None:
    record = tmp_path / "trace"
    with HostProcess(tmp_path, kind, "--trace", str(record)) as host, guest_of(host):
        host.wait_for_driver()
        host.set_balloon(BALLOON)
        assert host.stop() == 0
    text = ballonet("trace", record).stdout
    assert not [one for one in ("set target", "discard", *words) if one not in text]


def test_a_batch_page_in_a_hole_of_a_full_file_system_is_refused(tmp_path: Path) -> None:
    with (
        HostProcess(tmp_path, "vmware", "--target", "1M") as host,
        small_disk(tmp_path / "disk", "256k") as disk,
    ):
        fd = os.open(disk.path / "memory", os.O_CREAT | os.O_RDWR)
        with RawGuest(host.path, memory_fd=fd) as guest:
            guest.introduce("vmware")
            assert guest.call(START, ALL_CAPABILITIES)[1] == ALL_CAPABILITIES
            disk.fill()
            no_such_page = 2
            assert guest.call(BATCHED_LOCK, 9, 1)[0] == no_such_page
            disk.free()
            assert guest.call(BATCHED_LOCK, 9, 1)[0] == 0
        host.wait_until_free()
        assert host.stop() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_guest_with_such_a_balloon_does_not_move(tmp_path: Path, kind: str) -> None:
    monitor = tmp_path / "guest-qmp"
    with HostProcess(tmp_path, kind) as host:
        command = [BALLONET, "guest", "embedded", "--balloon", kind, "--socket", str(host.path)]
        command += ["--memory", "64M", "--qmp", f"unix:{monitor},server=on,wait=off"]
        with started(command, stdout=subprocess.DEVNULL) as process:
            host.wait_for_driver()
            wait_until(monitor.exists, PATIENCE_S, "the guest has no monitor")
            with QmpClient(monitor) as client:
                reply = client.negotiate().ask("migrate", uri="unix:/nowhere")
                assert reply["error"]["desc"] == f"a guest with a balloon of {kind} cannot move"
                assert client.ask("query-status")["return"]["status"] == "running"
            process.terminate()
            assert process.wait(PATIENCE_S) == 0
        done = ballonet(*command[1:], "--incoming", "tcp:localhost:0")
        assert done.returncode == 2
        assert "--incoming" in done.stderr


@pytest.mark.parametrize(
    "options",
    [
        *(("vmware", "--status-report"), ("hyperv", "--capabilities", "basic")),
        *(("vmware", "--report-limit", "1M"), ("hyperv", "--no-free-page-hint")),
        *(("hyperv", "--state-file", "state"), ("vmware", "--no-discard")),
        *(("virtio", "--status-report"), ("virtio", "--capabilities", "basic")),
        ("vmware", "--capabilities", "basic,fast"),
    ],
)
def test_an_option_that_does_not_apply_is_named(tmp_path: Path, options: tuple[str, ...]) -> None:
    kind, *given = options
    done = ballonet("device", "--balloon", kind, "--socket-path", tmp_path / "host", *given)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert given[0] in done.stderr


def test_a_guest_can_be_inherited_as_a_connected_socket() -> None:
    ours, theirs = socket.socketpair()
    command = [BALLONET, "device", "--balloon", "vmware", "--fd", str(theirs.fileno())]
    with ours, theirs, started(command, pass_fds=[theirs.fileno()]) as process:
        theirs.close()
        ours.close()
        assert process.wait(PATIENCE_S) == 0
