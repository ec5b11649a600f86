"""`set`, `info`, `stats` and `monitor` do the same at QEMU's socket and at ours."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.qemu.conftest import MEMORY_BYTES
from tests.support.programs import started
from tests.support.wait import PATIENCE_S

from ballonet.device.balloon import BalloonSettings
from ballonet.guests.ballooned import BalloonedGuest
from ballonet.guests.linux import LinuxGuestSettings
from ballonet.guests.qemu import QemuGuest
from ballonet.monitor.serving import monitoring
from ballonet.vhost_user.listener import listening_socket

BALLONET = str(Path(sys.executable).with_name("ballonet"))
MIB = 1 << 20


@pytest.fixture(scope="module", params=["qemu", "ours"])
def qmp(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A monitor with a guest of 512 MiB behind it."""
    if request.param == "qemu":
        with QemuGuest(MEMORY_BYTES) as guest:
            yield str(guest.qmp_path)
        return
    path = tmp_path_factory.mktemp("ours") / "qmp"
    with (
        BalloonedGuest(LinuxGuestSettings(MEMORY_BYTES), BalloonSettings()) as machine,
        listening_socket(path) as sock,
        monitoring(machine.device, [sock]),
    ):
        yield str(path)


def ballonet(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BALLONET, *arguments], input=text, capture_output=True, text=True, check=False
    )


def test_a_size_is_reached_and_said_to_be(qmp: str) -> None:
    done = ballonet("set", qmp, "300M", "--wait")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("reached: the guest keeps 300.0 MiB")
    info = json.loads(ballonet("info", qmp, "--json").stdout)
    assert info["logical_bytes"] == 300 * MIB
    assert info["balloon_bytes"] == info["memory_bytes"] - 300 * MIB


def test_without_waiting_it_is_only_asked_for(qmp: str) -> None:
    done = ballonet("set", qmp, "310M", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["verdict"] == "asked"
    assert ballonet("set", qmp, "320M", "--wait").returncode == 0


def test_a_size_that_the_guest_has_already_is_reached_again(qmp: str) -> None:
    assert ballonet("set", qmp, "300M", "--wait").returncode == 0
    done = ballonet("set", qmp, "300M", "--wait")
    assert done.returncode == 0, done.stderr
    assert json.loads(ballonet("info", qmp, "--json").stdout)["logical_bytes"] == 300 * MIB


def test_less_than_the_guest_uses_is_refused_with_the_numbers(qmp: str) -> None:
    before = json.loads(ballonet("info", qmp, "--json").stdout)
    for more in ((), ("--wait",)):
        done = ballonet("set", qmp, "20M", "--json", *more)
        assert done.returncode == 1
        result = json.loads(done.stdout)
        assert result["verdict"] == "refused"
        assert 20 * MIB < result["used_bytes"] < result["floor_bytes"] < 256 * MIB
        assert done.stderr.startswith("ballonet: refused: of its ")
        assert "--force" in done.stderr
        assert done.stderr.count("\n") == 1
    after = json.loads(ballonet("info", qmp, "--json").stdout)
    assert after["logical_bytes"] == before["logical_bytes"]
    assert after["poll_interval_s"] == 0


def test_a_guest_that_is_forced_and_hurt_gets_memory_back_and_lives(qmp: str) -> None:
    done = ballonet("set", qmp, "8M", "--wait", "--force", "--deadline", "45s", "--json")
    assert done.returncode == 1
    result = json.loads(done.stdout)
    assert result["verdict"] in {"suffering", "stuck"}
    assert 8 * MIB < result["actual_bytes"] < result["taken_back_to_bytes"]
    assert result["taken_back_to_bytes"] == result["floor_bytes"]
    assert done.stderr.count("ballonet: ") == 1
    # Alive: it takes its memory back, and answers.
    assert ballonet("set", qmp, "1T", "--wait").returncode == 0
    assert ballonet("stats", qmp).returncode == 0


def test_more_than_the_guest_has_is_said_to_be(qmp: str) -> None:
    done = ballonet("set", qmp, "900M", "--wait")
    assert done.returncode == 0, done.stderr
    assert "900.0 MiB are more than it has" in done.stdout


def test_a_bare_number_is_refused_with_what_it_may_mean(qmp: str) -> None:
    done = ballonet("set", qmp, "512")
    assert done.returncode == 2
    assert done.stderr == (
        "ballonet: size: got '512', expected a unit: 512M, 512K or, in bytes, 512B\n"
    )


def test_statistics_come_and_polling_is_left_as_it_was(qmp: str) -> None:
    done = ballonet("stats", qmp, "--json")
    assert done.returncode == 0, done.stderr
    stats = json.loads(done.stdout)["stats"]
    assert 0 < stats["free_memory_bytes"] < stats["total_memory_bytes"] <= 512 * MIB
    assert all(value is None or value < 1 << 50 for value in stats.values())
    assert json.loads(ballonet("info", qmp, "--json").stdout)["poll_interval_s"] == 0
    shown = ballonet("stats", qmp)
    assert "memfree" in shown.stdout
    assert "MiB" in shown.stdout


def test_watching_goes_on_until_it_is_interrupted(qmp: str) -> None:
    command = [BALLONET, "stats", qmp, "--watch", "--json"]
    with started(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        samples = [json.loads(process.stdout.readline()) for _ in range(3)]
        process.send_signal(2)
        assert process.wait(PATIENCE_S) == 0
    times = [sample["last_update_s"] for sample in samples]
    assert times == sorted(times)
    assert json.loads(ballonet("info", qmp, "--json").stdout)["poll_interval_s"] == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_watching_that_is_ended_puts_the_polling_back(qmp: str, number: signal.Signals) -> None:
    command = [BALLONET, "stats", qmp, "--watch", "--json"]
    with started(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(number)
        assert process.wait(PATIENCE_S) == 128 + number
    assert json.loads(ballonet("info", qmp, "--json").stdout)["poll_interval_s"] == 0


def test_the_monitor_takes_commands_of_both_kinds(qmp: str) -> None:
    ballonet("set", qmp, "256M", "--wait")
    lines = 'info balloon\n{"execute": "query-balloon"}\nnonsense\n{"execute": "nonsense"}\n'
    done = ballonet("monitor", qmp, text=lines)
    assert done.returncode == 0
    assert "balloon: actual=256" in done.stdout
    assert f'"actual": {256 * MIB}' in done.stdout
    assert "unknown command: 'nonsense'" in done.stdout
    assert "The command nonsense has not been found" in done.stdout


def test_a_socket_nobody_listens_at_is_one_clear_line(tmp_path: Path) -> None:
    for verb in (("info",), ("set", "1G"), ("stats",), ("monitor",)):
        done = ballonet(verb[0], str(tmp_path / "none"), *verb[1:])
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert "no monitor answers" in done.stderr
