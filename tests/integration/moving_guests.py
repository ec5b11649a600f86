"""Embedded guests that move: their processes, and a destination in the test that can spoil it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock, Thread
from typing import Any, Final, Self

from tests.integration.device_under_test import DeviceProcess
from tests.support.programs import wait_for_listener
from tests.support.qmp_client import QmpClient
from tests.support.wait import PATIENCE_S, wait_until

from ballonet.errors import BallonetError
from ballonet.memory.regions import Region
from ballonet.migration.channels import Channel, SocketChannel
from ballonet.migration.framing import RecordReader, RecordWriter
from ballonet.migration.incoming import Incoming
from ballonet.migration.memory_file import MemoryFile
from ballonet.migration.records import (
    FORWARD,
    Begin,
    End,
    Go,
    GuestRegion,
    Loaded,
    Ready,
    Record,
    StateName,
)
from ballonet.migration.rendezvous import connect

BALLONET: Final = str(Path(sys.executable).with_name("ballonet"))
PAGE: Final = 4096
MIB: Final = 1 << 20
OVER: Final = frozenset({"completed", "failed", "cancelled"})


class MovingGuest:
    """`ballonet guest embedded` with a monitor, behind a device; a context manager."""

    def __init__(self, directory: Path, name: str, device: Path, *options: str) -> None:
        self.monitor_path: Final = directory / f"{name}.qmp"
        self.log_path: Final = directory / f"{name}.log"
        self._received = b""
        self._qmp: QmpClient | None = None
        self._turn = Lock()
        self._line, theirs = socket.socketpair()
        self._line.settimeout(PATIENCE_S)
        command = [BALLONET, "guest", "embedded", "--socket", str(device)]
        command += ["--qmp", f"unix:{self.monitor_path},server=on,wait=off"]
        command += ["--device-qmp", f"{device}.qmp", "--control-fd", str(theirs.fileno()), *options]
        with theirs, self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[theirs.fileno()],
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._line.close()
        if self._qmp is not None:
            self._qmp.__exit__()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def qmp(self) -> QmpClient:
        """Its monitor."""
        if self._qmp is None:
            wait_until(self._is_served, PATIENCE_S, "its monitor is not served")
            self._qmp = QmpClient(self.monitor_path).negotiate()
        return self._qmp

    def _is_served(self) -> bool:
        assert self.process.poll() is None, self.log()
        with suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(self.monitor_path))
            return True
        return False

    def kill(self) -> None:
        """End it as nobody can prevent."""
        self.process.kill()
        self.process.wait()

    def log(self) -> list[str]:
        """What it has printed."""
        return self.log_path.read_text(encoding="utf-8").splitlines()

    def ask(self, what: str, **arguments: object) -> Any:  # noqa: ANN401 - JSON
        """Something of the guest, over its control socket."""
        self._line.sendall(json.dumps({"do": what, **arguments}).encode() + b"\n")
        while b"\n" not in self._received:
            data = self._line.recv(1 << 16)
            assert data, self.log()
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        return json.loads(line)["result"]

    def do(self, command: str, **arguments: object) -> Any:  # noqa: ANN401 - JSON
        """A command of its monitor that succeeds."""
        reply = self._ask(command, **arguments)
        assert "return" in reply, reply
        return reply["return"]

    def refused(self, command: str, **arguments: object) -> str:
        """Why its monitor refuses a command."""
        return str(self._ask(command, **arguments)["error"]["desc"])

    def _ask(self, command: str, **arguments: object) -> dict[str, Any]:
        """From any thread: whoever watches it while it moves asks too."""
        with self._turn:
            reply: dict[str, Any] = self.qmp.ask(command, **arguments)
        return reply

    def switch(self, **capabilities: bool) -> None:
        """Capabilities, with `_` for `-`."""
        rows = [
            {"capability": name.replace("_", "-"), "state": on} for name, on in capabilities.items()
        ]
        self.do("migrate-set-capabilities", capabilities=rows)

    def status(self) -> str:
        """Of the guest, as QEMU names it."""
        return str(self.do("query-status")["status"])

    def moved(self, uri: str) -> dict[str, Any]:
        """Have it move, and wait for how that ended."""
        self.do("migrate", uri=uri)
        return self.over()

    def over(self) -> dict[str, Any]:
        """How its migration has ended."""

        def ended() -> dict[str, Any] | None:
            answer: dict[str, Any] = self.do("query-migrate")
            return answer if answer["status"] in OVER else None

        return wait_until(ended, PATIENCE_S, "the migration does not end")

    def ended(self) -> tuple[int, list[str]]:
        """Wait for its end; its exit code, and what it has printed."""
        return self.process.wait(PATIENCE_S), self.log()

    def engines(self) -> list[int]:
        """Its children, zombies too."""
        path = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        return [int(one) for one in path.read_text().split()]

    def belongings(self) -> list[str]:
        """What it has open, and mapped of what has a name."""
        links = []
        for link in Path(f"/proc/{self.pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                links.append(str(link.readlink()).partition("[")[0].partition(":/")[0])
        lines = Path(f"/proc/{self.pid}/maps").read_text().splitlines()
        return sorted([*links, *(line.split()[5] for line in lines if "memfd" in line)])

    def named_file(self, name: str) -> int:
        """A descriptor of something it has open, as its own; whoever takes it closes it."""
        for link in Path(f"/proc/{self.pid}/fd").iterdir():
            if name in str(link.readlink()):
                return os.open(link, os.O_RDWR)
        raise AssertionError(f"it has no {name}")

    def is_watched(self) -> bool:
        """The kernel still sees the writes of the guest's process."""
        smaps = Path(f"/proc/{self.pid}/smaps").read_text()
        flags = [line.split()[1:] for line in smaps.splitlines() if line.startswith("VmFlags")]
        assert flags
        return any("uw" in one for one in flags)


@contextmanager
def device(directory: Path, name: str, *options: str | Path) -> Iterator[DeviceProcess]:
    """`ballonet device` with a monitor beside its socket."""
    path = directory / name
    with DeviceProcess(
        path, directory / f"{name}.log", "--qmp", f"unix:{path}.qmp,server=on,wait=off", *options
    ) as process:
        wait_for_listener(Path(f"{path}.qmp"))
        yield process


@contextmanager
def waiting(
    path: Path, memory: str = "64M", name: str = "b", *options: str
) -> Iterator[MovingGuest]:
    """A machine that waits for a guest at `in`, behind a device."""
    incoming = ("--incoming", f"unix:{path}/in")
    with MovingGuest(path, "there", path / name, "--memory", memory, *incoming, *options) as guest:
        wait_until(guest.log, PATIENCE_S, "it does not say that it waits")
        yield guest


def ask_device(path: Path, command: str, **arguments: object) -> Any:  # noqa: ANN401 - JSON
    """A command of a device's monitor that succeeds."""
    with QmpClient(Path(f"{path}.qmp")) as client:
        reply = client.negotiate().ask(command, **arguments)
    assert "return" in reply, reply
    return reply["return"]


def resize(path: Path, guest: MovingGuest, balloon_bytes: int) -> None:
    """Have so much in its balloon."""
    total = ask_device(path, "query-memory-size-summary")["base-memory"]
    ask_device(path, "balloon", value=total - balloon_bytes)
    wait_until(
        lambda: guest.ask("driver")["actual_pages"] == balloon_bytes // PAGE,
        PATIENCE_S,
        "the balloon does not follow",
    )


#: Told of each record before it is taken, with its number from 1; True: no more is taken.
Spoil = Callable[[int, Record, "Arrival"], bool]


class Arrival:
    """A destination in the test, for one guest; a context manager."""

    def __init__(self, path: Path, size: int, spoil: Spoil = lambda *_: False) -> None:
        self.uri: Final = f"unix:{path}"
        self.fd: Final = os.memfd_create("arrival")
        os.ftruncate(self.fd, size)
        self.incoming: Final = Incoming(
            MemoryFile([(Region(0, size, 0, 0), self.fd)]),
            (GuestRegion(0, size, PAGE),),
            frozenset(StateName),
        )
        self.raw: list[bytes] = []  # of each record
        self.has_gone = False  # it was told to let the guest run
        self.channel: SocketChannel
        self._spoil, self._writer = spoil, RecordWriter()
        self._waiting = _Waiting(path, self._receive)

    def __enter__(self) -> Self:
        self._waiting.begin()
        return self

    def __exit__(self, *_: object) -> None:
        self._waiting.end()
        os.close(self.fd)

    def say(self, record: Record) -> None:
        """Answer."""
        self.channel.send(self._writer.pack(record))

    def drain(self) -> None:
        """Read on and understand nothing, until the source leaves."""
        rest = memoryview(bytearray(1 << 16))
        with suppress(BallonetError):
            while self.channel.receive(rest) == len(rest):
                pass

    def _receive(self, channel: SocketChannel) -> None:
        self.channel = channel
        for record, raw in records_of(channel):
            self.raw.append(raw)
            if self._spoil(len(self.raw), record, self):
                return
            self.incoming.feed(record)
            match record:
                case Begin():
                    self.say(Ready())
                case End():
                    self.say(Loaded())
                case Go():
                    self.has_gone = True
                    return
                case _:
                    pass


#: Told of each record before it is passed on, with its number from 1.
Watch = Callable[[int, Record], None]


class Relay:
    """Between a source and a destination that are real; a context manager."""

    def __init__(self, path: Path, there: Path, watch: Watch) -> None:
        self.uri: Final = f"unix:{path}"
        self._there, self._watch = there, watch
        self._waiting = _Waiting(path, self._pass_on)

    def __enter__(self) -> Self:
        self._waiting.begin()
        return self

    def __exit__(self, *_: object) -> None:
        self._waiting.end()

    def _pass_on(self, source: SocketChannel) -> None:
        with connect(f"unix:{self._there}", int(PATIENCE_S)) as there:
            back = Thread(target=_copy, args=(there, source), daemon=True)
            back.start()
            try:
                for number, (record, raw) in enumerate(records_of(source), 1):
                    self._watch(number, record)
                    there.send([raw])
            finally:
                there.abort()
                back.join(PATIENCE_S)


class _Waiting:
    """A thread that serves one connection."""

    def __init__(self, path: Path, serve: Callable[[SocketChannel], None]) -> None:
        self._path, self._serve = path, serve
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen()
        self._thread = Thread(target=self._run, daemon=True)

    def begin(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join(PATIENCE_S)
        self._listening.close()
        self._path.unlink()

    def _run(self) -> None:
        with suppress(OSError, BallonetError):
            sock, _ = self._listening.accept()
            with SocketChannel(sock, "source", int(PATIENCE_S)) as channel:
                self._serve(channel)


def records_of(channel: Channel) -> Iterator[tuple[Record, bytes]]:
    """Every record that comes, and its bytes. Raises: StreamError, at the end."""
    reader = RecordReader(FORWARD)
    raw = b""
    while True:
        buffer = reader.buffer
        if channel.receive(buffer) < len(buffer):
            reader.cut()
        raw += bytes(buffer)
        record = reader.filled()
        if record is not None:
            yield record, raw
            raw = b""


def _copy(there: Channel, here: Channel) -> None:
    byte = memoryview(bytearray(1))
    with suppress(BallonetError):
        while there.receive(byte):
            here.send([byte])
    here.abort()


def kill(pid: int) -> None:
    """As nobody can prevent."""
    os.kill(pid, signal.SIGKILL)
