"""QEMU without a guest: its own balloon device, driven by a driver of ours in this process.

Guest memory is a file without a name that both have mapped, so rings are written directly;
registers go over QEMU's test protocol.  The processor sleeps for ever in a firmware of four bytes.
Not here: the registers (qtest), the driver (driver).
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Final, Self

from ballonet.driver.balloon_driver import BalloonDriver
from ballonet.driver.settings import DriverSettings
from ballonet.errors import GuestError
from ballonet.guests.processes import QEMU_MARK, PrivateDirectory
from ballonet.kernel.kernel import Kernel, KernelSettings
from ballonet.kernel.physical import MemoryPiece, PhysicalMemory
from ballonet.kernel.tasks import Job, Scheduler
from ballonet.memory.fence import full_fence
from ballonet.memory.shared_file import SharedFile
from ballonet.qtest.client import QtestClient
from ballonet.qtest.mmio import MmioTransport, find_mmio_balloon
from ballonet.qtest.pci import LegacyPciTransport, ModernPciTransport, find_pci_balloon
from ballonet.qtest.transport import QtestTransport
from ballonet.virtio.queues import QueueRole

if TYPE_CHECKING:
    from qemu.qmp.legacy import QEMUMonitorProtocol

__all__ = ["QTEST_LOW_BYTES", "Bus", "QtestMachine", "QtestSettings", "require_qemu"]

#: Below are the holes of a PC: video memory and ROMs.
QTEST_LOW_BYTES: Final = 1 << 20
_START_S: Final = 60.0
_VERSION: Final = ("major", "minor", "micro")
_STEPS: Final = 500
#: Between two looks at the interrupt lines while nothing happens.
_LOOK_S: Final = 0.002
#: Disable interrupts, halt, and halt again: at the place where a processor begins.
_FIRMWARE: Final = b"\xf4" * 65520 + bytes.fromhex("faf4ebfd").ljust(16, b"\xf4")


class Bus(Enum):
    """How the driver reaches the device."""

    PCI = "pci"
    LEGACY_PCI = "legacy-pci"
    MMIO = "mmio"


@dataclass(frozen=True, slots=True)
class QtestSettings:
    """How QEMU is started."""

    memory_bytes: int = 256 << 20
    bus: Bus = Bus.PCI
    #: Of the balloon, in QEMU's words.
    options: tuple[str, ...] = (
        *("free-page-hint=on", "free-page-reporting=on", "deflate-on-oom=on", "iothread=io0"),
    )
    incoming: str | None = None  #: where a migration comes from; its machine is only looked at
    kernel: KernelSettings = field(default_factory=KernelSettings)
    driver: DriverSettings = field(default_factory=DriverSettings)
    page_bytes: int = 4096
    huge: bool = False  #: memory of huge pages


def require_qemu() -> type[QEMUMonitorProtocol]:
    """QEMU is installed; returns the client of its monitor. Raises: GuestError."""
    from qemu.qmp.legacy import QEMUMonitorProtocol  # noqa: PLC0415 - most verbs do without

    if shutil.which("qemu-system-x86_64") is None:
        raise GuestError(
            "qemu-system-x86_64 is not installed; as root: apt-get install qemu-system-x86"
        )
    return QEMUMonitorProtocol


class QtestMachine:
    """QEMU, its balloon, and optionally our driver; a context manager."""

    balloon_path: Final = "/machine/peripheral/balloon0"

    def __init__(self, settings: QtestSettings) -> None:
        self.settings: Final = settings
        self._stack = ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes]
        self.memory: SharedFile
        self.client: QtestClient
        self.transport: QtestTransport
        self.qmp: QEMUMonitorProtocol
        self.kernel: Kernel
        self.driver: BalloonDriver | None = None
        self.scheduler: Scheduler

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            directory = stack.enter_context(PrivateDirectory("ballonet-qtest-", mark=QEMU_MARK))
            self.memory = stack.enter_context(
                SharedFile("ballonet-qtest", self.settings.memory_bytes, huge=self.settings.huge)
            )
            self._launch(stack, directory)
            if self.settings.incoming is None:
                self.transport = self._find_balloon()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        if self.driver is not None:
            self.kernel.memory.release()
        self._stack.close()

    def start_driver(self) -> BalloonDriver:
        """Boot a kernel of ours in QEMU's memory, with our driver. Raises: GuestError."""
        self.scheduler = Scheduler(time.monotonic_ns())
        piece = MemoryPiece(QTEST_LOW_BYTES, self.memory.view[QTEST_LOW_BYTES:])
        physical = PhysicalMemory([piece], self.settings.page_bytes)
        self.kernel = Kernel(physical, self.scheduler, self.settings.kernel)
        self.driver = BalloonDriver(self.kernel, self.transport, full_fence, self.settings.driver)
        self.driver.start()
        return self.driver

    def command(self, name: str, **arguments: object) -> Any:  # noqa: ANN401 - JSON
        """Ask QEMU's monitor. Raises: GuestError."""
        reply = self.qmp.cmd_raw(
            name, {key.replace("_", "-"): value for key, value in arguments.items()}
        )
        if "error" in reply:
            raise GuestError(f"{name}: {reply['error']['desc']}")
        return reply["return"]

    @property
    def pid(self) -> int:
        """QEMU's process. Raises: GuestError."""
        if self._process is None:
            raise GuestError("QEMU does not run")
        return self._process.pid

    @property
    def version(self) -> str:
        """QEMU's."""
        return ".".join(str(self.command("query-version")["qemu"][part]) for part in _VERSION)

    @property
    def complaints(self) -> str:
        """What QEMU has said on its standard error."""
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")

    def set_target(self, pages: int) -> None:
        """Ask for a balloon of so many balloon pages. Raises: GuestError."""
        self.command("balloon", value=self.settings.memory_bytes - (pages << 12))

    def run(self, seconds: float = 0.0) -> None:
        """Serve our kernel for so long, and until nothing more is to be done at once."""
        end_s = time.monotonic() + seconds
        while self.turn() or time.monotonic() < end_s:
            self.client.listen(min(_LOOK_S, max(0.0, end_s - time.monotonic())))

    def turn(self) -> bool:
        """Hear interrupts and let the kernel go on; True if something happened."""
        self.client.listen()
        heard = False
        if self.driver is not None:
            while self.client.raised:
                queues_used, config_changed = self.transport.take_interrupt()
                if not queues_used and not config_changed:
                    break
                heard = True
                if queues_used:
                    for queue in self.driver.queues.values():
                        self.driver.called(queue.number)
                if config_changed:
                    self.driver.config_changed()
                self.client.listen()
            heard |= self.scheduler.run(time.monotonic_ns(), _STEPS)
        return heard

    def run_until(self, condition: Callable[[], bool], seconds: float = 120.0) -> bool:
        """Let time pass until something is so; False if it is not in time."""
        end_s = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end_s:
                return False
            self.run(0.005)
        return True

    def do(self, job: Job[Any], seconds: float = 60.0) -> Any:  # noqa: ANN401 - whatever it returns
        """Run a job of our kernel to its end. Raises: GuestError."""
        results: list[Any] = []

        def top() -> Job[None]:
            results.append((yield from job))

        self.scheduler.spawn("job", top())
        if not self.run_until(lambda: bool(results), seconds):
            raise GuestError("the guest's job does not end")
        return results[0]

    def has_queue(self, role: QueueRole) -> bool:
        """The driver uses this queue."""
        return self.driver is not None and role in self.driver.queues

    def _launch(self, stack: ExitStack, directory: Path) -> None:
        monitor = require_qemu()
        (directory / "firmware").write_bytes(_FIRMWARE)
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(directory / "qtest"))
        listener.listen()
        listener.settimeout(_START_S)
        self._errors = errors = stack.enter_context((directory / "errors").open("w+b"))
        process = subprocess.Popen(
            self._arguments(directory),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            pass_fds=[self.memory.fd],
        )
        stack.callback(_end, process)
        self._process = process
        try:
            sock, _ = listener.accept()
        except TimeoutError as error:
            raise GuestError(f"QEMU does not start: {_text(errors)}") from error
        self.client = QtestClient(sock)
        stack.callback(self.client.close)
        stack.enter_context(_event_loop())
        self.qmp = monitor(str(directory / "qmp"))
        try:
            self.qmp.connect()
        except Exception as error:
            raise GuestError(f"QEMU does not start: {_text(errors)}") from error
        stack.callback(self.qmp.close)

    def _arguments(self, directory: Path) -> list[str]:
        settings = self.settings
        device, machine = "virtio-balloon-pci", "q35"
        if settings.bus is Bus.MMIO:
            device, machine = "virtio-balloon-device", "microvm,acpi=off"
        options = [device, "id=balloon0", *settings.options]
        if settings.bus is Bus.LEGACY_PCI:
            options += ["disable-modern=on", "disable-legacy=off"]
        memory = f"size={settings.memory_bytes},mem-path=/proc/self/fd/{self.memory.fd},share=on"
        return [
            *("qemu-system-x86_64", "-name", QEMU_MARK.format(directory)),
            *("-accel", "tcg", "-nodefaults", "-no-user-config"),
            *("-bios", str(directory / "firmware")),
            *("-machine", f"{machine},memory-backend=ram", "-m", f"{settings.memory_bytes >> 20}"),
            *("-object", f"memory-backend-file,id=ram,{memory}", "-display", "none"),
            *("-object", "iothread,id=io0", "-global", "virtio-mmio.force-legacy=false"),
            *("-device", ",".join(options)),
            *("-qtest", f"unix:{directory / 'qtest'}", "-qtest-log", "none"),
            *("-qmp", f"unix:{directory / 'qmp'},server=on,wait=off"),
            *(("-incoming", settings.incoming) if settings.incoming else ()),
        ]

    def _find_balloon(self) -> QtestTransport:
        if self.settings.bus is Bus.MMIO:
            self.client.intercept("/machine/ioapic")
            return MmioTransport(self.client, find_mmio_balloon(self.client))
        self.client.intercept("/machine/q35/ioapic")
        device = find_pci_balloon(self.client)
        if self.settings.bus is Bus.LEGACY_PCI:
            return LegacyPciTransport(device)
        return ModernPciTransport(device)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _text(errors: Any) -> str:  # noqa: ANN401 - a file
    errors.seek(0)
    return str(errors.read().decode(errors="replace").strip()) or "it says nothing"


@contextmanager
def _event_loop() -> Iterator[None]:
    """A loop for QEMU's client, which would make one and leave it open."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        yield
    finally:
        asyncio.set_event_loop(None)
        loop.close()
