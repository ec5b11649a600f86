"""The guest itself: its command line, and that nothing of it remains."""

from __future__ import annotations

import os
import pty
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.support.programs import started
from tests.support.wait import PATIENCE_S, holds, wait_until

from ballonet.errors import GuestError
from ballonet.guests import kernel_process
from ballonet.guests.linux import LinuxGuest, LinuxGuestSettings
from ballonet.guests.processes import guest_processes

MEMORY_BYTES = 128 << 20
BALLONET = str(Path(sys.executable).with_name("ballonet"))


@pytest.fixture(scope="module")
def guest() -> Iterator[LinuxGuest]:
    with LinuxGuest(LinuxGuestSettings(MEMORY_BYTES)) as running:
        yield running


def test_the_guest_runs_the_kernel_that_is_installed(
    guest: LinuxGuest, kernel_release: str
) -> None:
    assert guest.release == kernel_release == guest.check("uname -r").strip()
    assert 0 < guest.meminfo()["MemTotal"] <= MEMORY_BYTES


def test_it_runs_on_a_processor_whose_registers_it_cannot_keep(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernel_process, "exceed_the_kernel", lambda: True)
    with LinuxGuest(LinuxGuestSettings(MEMORY_BYTES, load_balloon=False)) as running:
        # What a program copies is what arrives, however often it is interrupted by a page fault.
        running.check("seq 1 1000000 >/tmp/one; cp /tmp/one /tmp/two; cmp /tmp/one /tmp/two")
        assert running.check("tail -n 1 /tmp/two") == "1000000\n"


def test_output_and_exit_code_of_a_command_arrive_whole(guest: LinuxGuest) -> None:
    result = guest.run("echo out; echo err >&2; exit 7")
    assert (result.exit_code, result.output) == (7, "out\nerr\n")
    with pytest.raises(GuestError, match="exit code 7"):
        guest.check("exit 7")
    long = guest.check("seq 1 40000")
    assert long == "".join(f"{number}\n" for number in range(1, 40_001))
    assert guest.check(f"echo {'y' * 2040}") == "y" * 2040 + "\n"
    with pytest.raises(GuestError, match="2048 bytes"):
        guest.run("z" * 2049)
    assert guest.check("printf 'a\\r\\n\\003\\004b\\177'") == "a\r\n\x03\x04b\x7f"


def test_a_command_that_takes_too_long_is_killed_and_the_next_one_runs(guest: LinuxGuest) -> None:
    with pytest.raises(GuestError, match="killed in the guest"):
        guest.run("sleep 60", timeout_s=1)
    assert guest.check("echo still here") == "still here\n"


def test_a_command_in_the_background_does_not_hold_up_the_next(guest: LinuxGuest) -> None:
    guest.check("sleep 60 & echo started")
    assert "sleep 60" in guest.check("ps")


class SlowLine:
    """Carries a byte after the other, and time passes between them."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line

    def sendall(self, data: bytes) -> None:
        for byte in data:
            self._line.sendall(bytes([byte]))
            assert holds(lambda: True, 0.02)

    def __getattr__(self, name: str) -> object:
        return getattr(self._line, name)


def test_no_command_is_lost_while_processes_end_that_nobody_waits_for(
    guest: LinuxGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their ends are told to the guest's first process, here while a command arrives."""
    guest.check("while :; do (true &); usleep 10000; done & echo $! > /run/orphans")
    shell = guest._running_shell()
    with monkeypatch.context() as patch:
        patch.setattr(shell, "_line", SlowLine(shell._line))
        assert guest.check("echo whole") == "whole\n"
    guest.check("kill $(cat /run/orphans)")


def test_what_serves_the_host_survives_a_lack_of_memory(guest: LinuxGuest) -> None:
    guest.check("echo 1 > /proc/sys/vm/overcommit_memory")
    result = guest.run("dd if=/dev/zero of=/dev/null bs=400M count=1; echo $?")
    assert result.output.splitlines()[-1] != "0"
    assert "Killed process" in guest.kernel_log()
    assert guest.check("echo alive") == "alive\n"


def test_stopping_leaves_no_process_and_no_file() -> None:
    guest = LinuxGuest(LinuxGuestSettings(MEMORY_BYTES))
    guest.start()
    assert guest._directory is not None
    directory = guest._directory.path
    assert guest.pid in guest_processes(directory)
    guest.stop()
    assert guest_processes(directory) == []
    assert not directory.exists()
    guest.stop()


def test_a_guest_that_powers_off_by_itself_is_noticed() -> None:
    with LinuxGuest(LinuxGuestSettings(MEMORY_BYTES)) as guest:
        with pytest.raises(GuestError, match="is gone"):
            guest.run("poweroff -f")
        assert guest.wait_for_exit(10) in (0, -signal.SIGABRT)  # it aborts now and then, halted
        assert not guest.is_running


def test_a_kernel_that_does_not_come_up_is_an_error_with_its_last_words() -> None:
    settings = LinuxGuestSettings(MEMORY_BYTES, command_line=("rdinit=/nonsense", "panic=-1"))
    with pytest.raises(GuestError, match=r"is gone[\s\S]*"):
        LinuxGuest(settings).start()


def test_a_guest_ends_with_the_program_that_started_it(tmp_path: Path) -> None:
    script = tmp_path / "start.py"
    script.write_text(
        "import time\n"
        "from ballonet.guests.linux import LinuxGuest, LinuxGuestSettings\n"
        f"guest = LinuxGuest(LinuxGuestSettings({MEMORY_BYTES}))\n"
        "guest.start()\n"
        "print(guest._directory.path, flush=True)\n"
        "time.sleep(60)\n"
    )
    with started([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        directory = Path(parent.stdout.readline().strip())
        assert guest_processes(directory)
        parent.kill()
    wait_until(lambda: not guest_processes(directory), 10, "the orphaned guest ended")
    wait_until(lambda: not directory.exists(), 10, "its files are gone")


def test_commands_piped_into_the_console_are_run_and_the_guest_powers_off() -> None:
    done = subprocess.run(
        [BALLONET, "guest", "linux", "--memory", "128M"],
        input="echo kernel $(uname -r)\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert "kernel 6." in done.stdout or "kernel 7." in done.stdout


def test_ctrl_c_on_the_console_reaches_the_guests_shell_and_not_our_program() -> None:
    ours, theirs = pty.openpty()
    command = [BALLONET, "guest", "linux", "--memory", "128M"]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    seen = ""

    def says(text: str) -> bool:
        nonlocal seen
        if select.select([ours], [], [], 0)[0]:
            with suppress(OSError):  # EIO: the program has ended
                seen += os.read(ours, 4096).decode(errors="replace")
        return text in seen

    def ended() -> bool:
        says("")
        return process.poll() is not None

    try:
        wait_until(lambda: says("/root # "), 60, "a prompt")
        # One program, in the foreground before it speaks: a Ctrl-C between two is lost to both.
        os.write(ours, b'sh -c "echo \\$((20 + 3)) asleep; exec sleep 1000"\r')
        wait_until(lambda: says("23 asleep"), 10, "the command runs")
        os.write(ours, b"\x03echo back $((40 + 2))\r")
        wait_until(lambda: says("back 42\r\n/root # "), 20, "the shell again")
        os.write(ours, b"poweroff -f\r")
        with suppress(AssertionError):
            wait_until(ended, 60, "the guest's end")
        assert process.returncode == 0, seen  # the kernel's last words, where there are any
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def directory_of_child(parent: int) -> Path | None:
    """The directory of the guest a process has started, from the guest's own command line."""
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        for argument in Path(f"/proc/{child}/cmdline").read_text().split("\0"):
            if argument.startswith("uml_dir="):
                return Path(argument.removeprefix("uml_dir="))
    return None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_console_that_is_killed_takes_every_process_of_its_guest_along(number: int) -> None:
    ours, theirs = pty.openpty()
    command = [BALLONET, "guest", "linux", "--memory", "128M"]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    try:
        seen = b""
        while b"/root # " not in seen:
            seen += os.read(ours, 4096)
        directory = directory_of_child(process.pid)
        assert directory is not None
        assert len(guest_processes(directory)) > 1
        process.send_signal(number)
        process.wait(PATIENCE_S)
        wait_until(lambda: not guest_processes(directory), 10, "the guest ended")
        wait_until(lambda: not directory.exists(), 10, "its files are gone")
    finally:
        process.kill()
        process.wait()
        os.close(ours)
