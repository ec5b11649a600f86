"""A host of Hyper-V's or VMware's balloon as users start it, and embedded guests for it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from tests.support.programs import wait_for_listener
from tests.support.qmp_client import QmpClient
from tests.support.wait import PATIENCE_S, wait_until

from ballonet.control.status import Status
from ballonet.guests.embedded import EmbeddedGuestSettings
from ballonet.guests.embedded_process import EmbeddedGuest
from ballonet.hyperv.settings import HypervHostSettings
from ballonet.runtime.system_clock import SystemClock
from ballonet.siblings.host_server import SiblingServer
from ballonet.siblings.hyperv_conversation import HypervConversation
from ballonet.siblings.serving import serving
from ballonet.siblings.sibling_control import SiblingControl
from ballonet.siblings.vmware_conversation import VmwareConversation
from ballonet.vhost_user.listener import listening_socket
from ballonet.vmware.host import VmwareHostSettings

BALLONET: Final = str(Path(sys.executable).with_name("ballonet"))
KINDS: Final = ("hyperv", "vmware")
MIB: Final = 1 << 20
PAGE: Final = 4096
MEMORY_BYTES: Final = 256 * MIB


class HostProcess:
    """`ballonet device --balloon`, with a monitor; a context manager."""

    def __init__(self, directory: Path, kind: str, *options: str) -> None:
        self.kind: Final = kind
        self.path: Final = directory / "host"
        self.monitor_path: Final = directory / "qmp"
        self._log_path: Final = directory / "log"
        self._options = options
        self._process: subprocess.Popen[bytes]
        self.qmp: QmpClient
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Serve; again after `kill`."""
        command = [BALLONET, "device", "--balloon", self.kind, "--socket-path", str(self.path)]
        command += ["--qmp", f"unix:{self.monitor_path},server=on,wait=off", *self._options]
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(command, stderr=log)
        for path in (self.path, self.monitor_path):
            wait_for_listener(path)
        self.qmp = QmpClient(self.monitor_path).negotiate()

    def kill(self) -> None:
        """End it as nobody can prevent."""
        self.qmp.__exit__()
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """End it as an operator would; returns its exit code."""
        self._process.terminate()
        return self._process.wait(PATIENCE_S)

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def is_alive(self) -> bool:
        """The process has not ended."""
        return self._process.poll() is None

    def log(self) -> list[str]:
        """What it wrote to stderr, after where it listens."""
        lines = self._log_path.read_text(encoding="utf-8").splitlines()
        return [line for line in lines if not line.startswith("ballonet: listening at ")]

    def wait_for_line(self, text: str) -> None:
        """Until its log says something."""
        wait_until(lambda: any(text in line for line in self.log()), PATIENCE_S, f"no {text!r}")

    def do(self, command: str, **arguments: object) -> Any:  # noqa: ANN401 - JSON
        """What a command returns that succeeds."""
        reply = self.qmp.ask(command, **arguments)
        assert "return" in reply, reply
        return reply["return"]

    def refused(self, command: str, **arguments: object) -> str:
        """Why a command fails."""
        reply = self.qmp.ask(command, **arguments)
        assert "error" in reply, reply
        return str(reply["error"]["desc"])

    def info(self) -> dict[str, Any]:
        """Everything it tells of itself."""
        return dict(self.do("x-ballonet-info"))

    def wait_for_driver(self) -> None:
        """A guest's driver was accepted."""
        wait_until(lambda: self.info()["running"], PATIENCE_S, "no driver uses the balloon")

    def wait_until_free(self) -> None:
        """The last guest is gone, as the host sees it."""
        wait_until(lambda: not self.info()["connected"], PATIENCE_S, "there is still a guest")

    def set_balloon(self, size: int, memory_bytes: int = MEMORY_BYTES) -> None:
        """Have so much in the balloon, all of it dropped."""
        self.do("balloon", value=memory_bytes - size)
        wait_until(lambda: self._balloon() == size, PATIENCE_S, f"no balloon of {size} bytes")
        self.do("x-ballonet-expedite")
        wait_until(lambda: not self.info()["waiting"], PATIENCE_S, "memory still waits")

    def _balloon(self) -> int:
        return int(self.info()["actual-pages"]) * PAGE


def guest_of(host: HostProcess, *, speed: float = 1.0) -> EmbeddedGuest:
    """An embedded guest for a host; it boots when it is entered."""
    settings = EmbeddedGuestSettings(MEMORY_BYTES, host.path, speed=speed, balloon=host.kind)
    return EmbeddedGuest(settings)


@dataclass(frozen=True, slots=True)
class Host:
    """A host on a thread of this process, for guests that say what they like."""

    path: Path
    kind: str
    control: SiblingControl

    def status(self) -> Status:
        """Look at it."""
        return self.control.status()

    def set_target(self, pages: int) -> None:
        """Ask for so many pages; it knows when this returns."""
        self.control.set_target(pages).result(PATIENCE_S)

    def wait_until_free(self) -> None:
        """The last guest is gone, as the host sees it."""
        wait_until(lambda: not self.status().connected, PATIENCE_S, "there is still a guest")


@contextmanager
def running_host(path: Path, kind: str) -> Iterator[Host]:
    """Serve on a thread of this process; guests of Hyper-V's are asked at once."""
    clock = SystemClock()
    with listening_socket(path) as sock:
        conversation = (
            HypervConversation(clock, HypervHostSettings(post_init_wait_ns=0))
            if kind == "hyperv"
            else VmwareConversation(clock, VmwareHostSettings())
        )
        server = SiblingServer(conversation, sock, listening=True)
        control = SiblingControl(server, wants_reports=False if kind == "hyperv" else None)
        with serving(server):
            yield Host(path, kind, control)
