"""The embedded guest as a program: how it is used wrongly, and how it ends."""

from __future__ import annotations

import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.integration.device_under_test import running_device
from tests.support.programs import started
from tests.support.wait import PATIENCE_S, wait_until

BALLONET = str(Path(sys.executable).with_name("ballonet"))


@pytest.mark.parametrize(
    "option",
    [
        *(("--seed", "-1"), ("--speed", "nan"), ("--speed", "0"), ("--control-fd", "-1")),
        *(("--control-fd", "0"), ("--control-fd", "77"), ("--memory", "1M")),
    ],
)
def test_wrong_use_is_one_line(tmp_path: Path, option: tuple[str, str]) -> None:
    with running_device(tmp_path / "device"):
        command = [BALLONET, "guest", "embedded", "--socket", str(tmp_path / "device"), *option]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert option[0] in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_guest_that_is_ended_leaves_at_once_and_well(tmp_path: Path, number: int) -> None:
    with running_device(tmp_path / "device") as device:
        command = [BALLONET, "guest", "embedded", "--socket", str(tmp_path / "device")]
        with started(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("balloon 0 B, MemTotal")
            process.send_signal(number)
            assert process.wait(PATIENCE_S) == 0
        device.wait_until_free()


def test_a_guest_whose_owner_is_gone_with_answers_unread_ends_without_a_word(
    tmp_path: Path,
) -> None:
    ours, theirs = socket.socketpair()
    with running_device(tmp_path / "device"), theirs:
        command = [BALLONET, "guest", "embedded", "--socket", str(tmp_path / "device")]
        with started(
            [*command, "--control-fd", str(theirs.fileno())],
            stderr=subprocess.PIPE,
            pass_fds=[theirs.fileno()],
        ) as process:
            theirs.close()
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            ours.sendall(b'{"do": "vmstat"}\n' * 1000)
            wait_until(lambda: select.select([ours], [], [], 0)[0], PATIENCE_S, "no answer comes")
            ours.close()
            _, complaint = process.communicate(timeout=PATIENCE_S)
        assert (process.returncode, complaint) == (0, b"")
