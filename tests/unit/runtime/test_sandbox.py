"""What a process gives up, tried out in a child."""

from __future__ import annotations

import mmap
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import pytest

from ballonet.memory.discard import punch_hole
from ballonet.runtime.sandbox import Sandbox, SandboxLimits

LIMITS = SandboxLimits(mapped_bytes=1 << 36, files=64, file_bytes=1 << 20)
MIB = 1 << 20


def inside(action: Callable[[], object]) -> str:
    """What becomes of an action in the sandbox: `done`, or the name of the exception."""
    sandbox = Sandbox(LIMITS)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        text = "done"
        try:
            sandbox.enter()
            action()
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(writer, text.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as said:
        text = said.read().decode()
    assert os.waitpid(pid, 0)[1] == 0
    return text


def status(key: str) -> str:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(key + ":"))


def need(condition: object) -> None:
    if not condition:
        raise AssertionError


@pytest.mark.parametrize("kind", ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"])
def test_no_capability_is_left(kind: str) -> None:
    if kind == "CapBnd" and os.geteuid() != 0:
        pytest.skip("without any capability none can be taken from the bounding set")
    assert inside(lambda: need(int(status(kind), 16) == 0)) == "done"


def test_no_program_can_win_new_privileges() -> None:
    assert inside(lambda: need(status("NoNewPrivs") == "1")) == "done"


def _connect() -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect("/nowhere")


@pytest.mark.parametrize(
    "action",
    [
        lambda: os.execv(sys.executable, [sys.executable, "-c", "pass"]),  # noqa: S606 - refused
        lambda: subprocess.run([sys.executable, "-c", "pass"], check=True),
        os.fork,
        lambda: os.kill(os.getppid(), signal.SIGCONT),
        lambda: socket.socket(socket.AF_INET),
        lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
        _connect,
        lambda: os.pidfd_open(os.getppid()),
        lambda: resource.prlimit(os.getppid(), resource.RLIMIT_CORE),
        lambda: os.setuid(os.getuid()),
    ],
)
def test_what_no_device_does_is_not_permitted(action: Callable[[], object]) -> None:
    assert Sandbox(LIMITS).filters_system_calls, "install libseccomp2 and pyseccomp"
    assert inside(action).startswith("PermissionError")


def _thread() -> None:
    seen: list[int] = []
    thread = Thread(target=lambda: seen.append(1))
    thread.start()
    thread.join()
    need(seen == [1])


def test_what_a_device_does_is_permitted() -> None:
    for action in (_thread, socket.socketpair, lambda: os.eventfd(0)):
        assert inside(action) == "done"


def test_a_hole_far_behind_the_greatest_file_size_can_be_punched() -> None:
    fd = os.memfd_create("guest")
    os.truncate(fd, 64 * MIB)
    with mmap.mmap(fd, 64 * MIB) as mapping:
        mapping[:] = b"x" * (64 * MIB)
    assert inside(lambda: punch_hole(fd, 32 * MIB, 32 * MIB)) == "done"
    assert os.fstat(fd).st_blocks * 512 == 32 * MIB
    os.close(fd)


def test_no_file_grows_beyond_its_limit() -> None:
    with tempfile.TemporaryFile() as file:
        fd = file.fileno()
        assert "File too large" in inside(lambda: os.pwrite(fd, b"x", MIB))
        assert inside(lambda: os.pwrite(fd, b"x", MIB - 1)) == "done"


def test_no_more_descriptors_and_memory_than_the_limits_say() -> None:
    assert "Too many open files" in inside(lambda: [os.eventfd(0) for _ in range(64)])
    assert "Cannot allocate memory" in inside(lambda: mmap.mmap(-1, 1 << 36))


def test_a_crash_leaves_no_core_file() -> None:
    limit = (0, 0)
    assert inside(lambda: need(resource.getrlimit(resource.RLIMIT_CORE) == limit)) == "done"
