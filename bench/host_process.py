"""`ballonet host` as a process, and guests that set their rings up and then do nothing."""

from __future__ import annotations

import json
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Final, Self

from ballonet.conform.device.session import DeviceSession
from ballonet.conform.device.vhost_user_rig import VhostUserRig
from ballonet.errors import GuestError
from ballonet.memory.shared_file import SharedFile
from ballonet.vhost_user.messages import Request, pack_request
from bench.device_process import LARGE_WANTED, Giver, LargeRig, cpu_seconds
from bench.listening import wait_for_listener

__all__ = ["HostProcess", "ask_host", "idle_guests", "raise_file_limit"]

_GUEST_BYTES: Final = 32 << 20
_MESSAGES: Final = 400
_FILES: Final = 1 << 17
_IDLE_S: Final = 2.0


class HostProcess:
    """The program, with so many guests and one more for the driver that measures."""

    def __init__(self, guests: int) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="ballonet-bench-")
        self.path: Final = Path(self._directory.name)
        names = [f"guest{number}" for number in range(guests)] + ["measured"]
        fields: dict[str, object] = {"version": 1, "guests": dict.fromkeys(names)}
        (self.path / "host.json").write_text(json.dumps(fields))

    def socket(self, number: int) -> Path:
        """Of a guest's device."""
        return self.path / f"guest{number}.sock"

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "ballonet", "host", "--directory", str(self.path)]
        self._process = subprocess.Popen(command)
        wait_for_listener(self.path / "host.qmp")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait()
        self._directory.cleanup()

    def rows(self) -> list[dict[str, Any]]:
        """`list`, as its monitor has it."""
        rows: list[dict[str, Any]] = self._ask("x-ballonet-query-guests")
        return rows

    def seconds_to_add(self, name: str) -> float:
        """From `add` until the new guest's device answers its VMM for the first time."""
        begun_s = time.monotonic()
        row = self._ask("x-ballonet-add-guest", name=name)
        with socket.socket(socket.AF_UNIX) as vmm:
            vmm.connect(row["socket"])
            vmm.sendall(pack_request(Request.GET_FEATURES))
            vmm.recv(64)
        return time.monotonic() - begun_s

    def private_kib(self) -> float:
        """Memory that a worker shares with nobody, as the kernel counts it."""
        found = []
        for pid in self.workers():
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            found.append(float(text.partition("Private_Dirty:")[2].split()[0]))
        return median(found)

    def idle(self) -> tuple[float, float]:
        """Wake-ups and processor seconds in a second in which nothing happens."""
        time.sleep(1)
        before, before_s = self._switches(), self.cpu_s()
        time.sleep(_IDLE_S)
        return (self._switches() - before) / _IDLE_S, (self.cpu_s() - before_s) / _IDLE_S

    def latencies(self) -> list[float]:
        """Seconds of each of some hundred messages."""
        times = []
        with LargeRig(self.path / "measured.sock").session(LARGE_WANTED) as session:
            giver = Giver(session)
            for number in range(_MESSAGES):
                pfns = giver.data_pages[number * 256 : (number + 1) * 256]
                begun_s = time.monotonic()
                giver.inflate(pfns)
                times.append(time.monotonic() - begun_s)
        return times

    def workers(self) -> list[int]:
        """Their processes, oldest first."""
        pid = self._process.pid
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def _switches(self) -> int:
        found = 0
        for pid in (self._process.pid, *self.workers()):
            for task in Path(f"/proc/{pid}/task").iterdir():
                for line in (task / "status").read_text().splitlines():
                    if line.startswith("voluntary_ctxt_switches"):
                        found += int(line.split()[1])
        return found

    def cpu_s(self) -> float:
        """Processor seconds of all of it so far."""
        return sum(cpu_seconds(pid) for pid in (self._process.pid, *self.workers()))

    def _ask(self, command: str, **arguments: object) -> Any:  # noqa: ANN401 - what it returns
        return ask_host(self.path, command, **arguments)


def ask_host(directory: Path, command: str, **arguments: object) -> Any:  # noqa: ANN401 - what it returns
    """Of a host's monitor. Raises: GuestError."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(directory / "host.qmp"))
        lines = client.makefile("rw", encoding="utf-8")
        lines.readline()
        said = {"execute": command, "arguments": arguments}
        for one in ({"execute": "qmp_capabilities"}, said):
            lines.write(json.dumps(one) + "\n")
            lines.flush()
            answer = json.loads(lines.readline())
        if "return" not in answer:
            raise GuestError(f"{command}: {answer}")
        return answer["return"]


class _IdleRig(VhostUserRig):
    """Sessions of small guests."""

    def _memory(self, *, big_pages: bool) -> SharedFile:
        del big_pages
        return SharedFile("ballonet-bench", _GUEST_BYTES)


@contextmanager
def idle_guests(host: HostProcess, count: int) -> Iterator[Sequence[DeviceSession]]:
    """Guests whose rings are set up, inside the block."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(_IdleRig(host.socket(number)).session(LARGE_WANTED))
            for number in range(count)
        ]


def raise_file_limit() -> None:
    """Every guest has a dozen descriptors here, and as many in the host."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
