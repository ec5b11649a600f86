"""What the host holds of a process's memory, measured from outside."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.programs import started

from ballonet.vms.host_memory import measure_host_memory

MIB = 1 << 20
RAM_BYTES = 200 * MIB
TOUCHED_BYTES = 64 * MIB
#: Maps memory as VMMs do, touches some of it, and waits.
VMM = """
import mmap, os, sys
kind, size, touched = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
if kind == "private":
    ram = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
elif kind == "shared":
    ram = mmap.mmap(-1, size)
else:
    fd = os.memfd_create("ram") if kind == "memfd" else os.open(kind, os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, size)
    ram = mmap.mmap(fd, size)
for at in range(0, touched, 4096):
    ram[at] = 1
print(1, flush=True)
sys.stdin.read()
"""


@contextmanager
def vmm(kind: str, touched_bytes: int = TOUCHED_BYTES) -> Iterator[int]:
    command = [sys.executable, "-c", VMM, kind, str(RAM_BYTES), str(touched_bytes)]
    with started(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        yield process.pid
        process.communicate()


@pytest.mark.parametrize("kind", ["private", "shared", "memfd", "file"])
def test_what_was_touched_is_held(tmp_path: Path, kind: str) -> None:
    with vmm(str(tmp_path / "ram") if kind == "file" else kind) as pid:
        found = measure_host_memory(pid, RAM_BYTES)
    assert found.held_bytes is not None
    assert TOUCHED_BYTES <= found.held_bytes < TOUCHED_BYTES + 4 * MIB


def test_what_others_have_touched_of_shared_memory_is_held_too() -> None:
    """As a vhost-user back-end does, or a guest's other half."""
    with vmm("memfd", 0) as pid:
        before = measure_host_memory(pid, RAM_BYTES)
        fd = next(
            one for one in Path(f"/proc/{pid}/fd").iterdir() if "memfd:ram" in str(one.readlink())
        )
        with fd.open("r+b") as file, mmap.mmap(file.fileno(), RAM_BYTES) as ram:
            for at in range(0, TOUCHED_BYTES, 4096):
                ram[at] = 1
            after = measure_host_memory(pid, RAM_BYTES)
    assert (before.held_bytes, after.held_bytes) == (0, TOUCHED_BYTES)


def test_what_is_not_known_is_said_and_not_guessed() -> None:
    assert measure_host_memory(None, RAM_BYTES).why_not == "its process is not known"
    assert "how much memory" in measure_host_memory(os.getpid(), None).why_not
    assert "is gone" in measure_host_memory(1 << 30, RAM_BYTES).why_not
    with vmm("private") as pid:
        found = measure_host_memory(pid, RAM_BYTES // 2 + 8192)
    assert (found.held_bytes, "is not clear" in found.why_not) == (None, True)


def test_another_users_process_is_unknown() -> None:
    if os.geteuid():
        pytest.skip("only root has processes of other users")
    asks = (
        "import os, sys\n"
        "from ballonet.vms.host_memory import measure_host_memory\n"
        "os.setuid(65534)\n"
        "print(measure_host_memory(int(sys.argv[1]), int(sys.argv[2])).why_not)"
    )
    with vmm("private") as pid:
        done = subprocess.run(
            [sys.executable, "-c", asks, str(pid), str(RAM_BYTES)],
            capture_output=True,
            text=True,
            check=False,
        )
    assert f"may not look at the memory of process {pid}" in done.stdout, done.stderr
