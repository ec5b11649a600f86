"""A process that is stopped for a while goes on, whatever happens to who stopped it.

Ordinary processes here; a kernel with its children in tests/kernel.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.wait import PATIENCE_S, wait_until

from ballonet.errors import GuestError
from ballonet.guests.stopping import is_stopped, stopped

HOLDER = """
import sys, threading
from ballonet.guests.stopping import stopped
with stopped(int(sys.argv[1])):
    print("here", flush=True)
    threading.Event().wait()
"""
#: Traces a child that makes no system call, as a kernel does; says which signal brings it back.
TRACER = """
import ctypes, os, signal
libc = ctypes.CDLL(None, use_errno=True)
ptrace, TRACEME, CONT = libc.ptrace, 0, 7
child = os.fork()
if not child:
    libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG: whatever happens to its tracer
    ptrace(TRACEME, 0, 0, 0)
    os.kill(os.getpid(), signal.SIGSTOP)
    while True:
        pass
os.waitpid(child, 0)
ptrace(CONT, child, 0, 0)
print(child, flush=True)
_, status = os.waitpid(child, 0)
os.kill(child, signal.SIGKILL)
print(os.WSTOPSIG(status), flush=True)
"""


@contextmanager
def started(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGCONT)
            process.kill()


@pytest.fixture
def victim() -> Iterator[subprocess.Popen[bytes]]:
    with started("sh", "-c", "while :; do :; done") as process:
        yield process


def test_it_stands_still_inside_the_block_and_runs_after_it(
    victim: subprocess.Popen[bytes],
) -> None:
    with stopped(victim.pid):
        assert is_stopped(victim.pid)
    assert not is_stopped(victim.pid)


def test_it_runs_again_after_an_error(victim: subprocess.Popen[bytes]) -> None:
    with pytest.raises(ZeroDivisionError), stopped(victim.pid):
        raise ZeroDivisionError
    assert not is_stopped(victim.pid)


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGSEGV]
)
def test_it_runs_again_when_who_stopped_it_is_ended(
    victim: subprocess.Popen[bytes], number: int
) -> None:
    with started(sys.executable, "-c", HOLDER, str(victim.pid)) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"here\n"
        assert is_stopped(victim.pid)
        holder.send_signal(number)
        holder.wait(PATIENCE_S)
        wait_until(lambda: not is_stopped(victim.pid), PATIENCE_S, "it stays stopped")


def test_one_that_somebody_else_has_stopped_stays_so(victim: subprocess.Popen[bytes]) -> None:
    victim.send_signal(signal.SIGSTOP)
    wait_until(lambda: is_stopped(victim.pid), PATIENCE_S, "it does not stop")
    with stopped(victim.pid):
        assert is_stopped(victim.pid)
    assert is_stopped(victim.pid)


def test_nothing_is_left_behind(victim: subprocess.Popen[bytes]) -> None:
    def watchers() -> list[str]:
        paths = [entry / "cmdline" for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        found = [path.read_text(errors="replace") for path in paths if path.exists()]
        return [one for one in found if f"\0{victim.pid}\0" in one and "CONT" in one]

    with stopped(victim.pid):
        assert len(watchers()) == 1
    assert not watchers()


def test_a_process_that_is_gone_is_named() -> None:
    with started("true") as gone:
        gone.wait(PATIENCE_S)
    with (
        pytest.raises(GuestError, match=f"process {gone.pid} cannot be stopped"),
        stopped(gone.pid),
    ):
        pass


def test_one_that_ends_meanwhile_is_no_reason_for_an_error(
    victim: subprocess.Popen[bytes],
) -> None:
    with stopped(victim.pid):
        victim.kill()
        victim.wait(PATIENCE_S)


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_program_that_never_asks_its_kernel_for_anything_stands_still_too() -> None:
    with started(sys.executable, "-c", TRACER) as kernel:
        assert kernel.stdout is not None
        child = int(kernel.stdout.readline())
        wait_until(lambda: state(child) == "R", PATIENCE_S, "it does not run")
        with stopped(kernel.pid):
            assert state(child) == "t"
        assert int(kernel.stdout.readline()) == signal.SIGALRM
