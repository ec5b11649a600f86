"""QEMU's own device, on registers of a QEMU that runs no guest.

A migration is a real one: into a file at first, slowly enough for hints to come in time, and from
it into a second QEMU, whose memory shows what was sent.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from ballonet.conform.checks import NotApplicable
from ballonet.conform.device.marked_memory import MarkedMemory
from ballonet.conform.device.rig import EVERYTHING, HostControl
from ballonet.conform.device.session import DeviceSession, Heard
from ballonet.errors import GuestError
from ballonet.guests.processes import PrivateDirectory
from ballonet.guests.qtest_machine import QTEST_LOW_BYTES, Bus, QtestMachine, QtestSettings
from ballonet.units import BALLOON_PAGE_BYTES
from ballonet.virtio.features import Feature

__all__ = ["QemuRig"]

_MEMORY_BYTES: Final = 128 << 20
_OPTIONS: Final = (
    *("free-page-hint=on", "free-page-reporting=on", "deflate-on-oom=on", "iothread=io0"),
)
#: Pages without an end to their contents, which hold the migration up before the pages of a check.
_BALLAST_AT, _BALLAST_BYTES = 8 << 20, 6 << 20
_SLOW_BYTES_PER_S: Final = 1 << 20
_FAST_BYTES_PER_S: Final = 1 << 40
_MIGRATION_S: Final = 30.0


class QemuRig:
    """QEMU's balloon; each session has a QEMU of its own."""

    memory_bytes = _MEMORY_BYTES

    def __init__(self, *options: str) -> None:
        self._options = options
        self._control = _QemuControl()
        self.control: HostControl | None = self._control
        self.name = "QEMU's device"

    @property
    def machine(self) -> QtestMachine:
        """The QEMU of the present session. Raises: GuestError."""
        return self._control.machine

    @contextmanager
    def session(
        self,
        wanted: Feature = EVERYTHING,
        *,
        packed: bool = False,
        legacy: bool = False,
        big_pages: bool = False,
    ) -> Iterator[DeviceSession]:
        """A session. Raises: NotApplicable; GuestError."""
        options = _OPTIONS + self._options + (("packed=on",) if packed else ())
        bus = Bus.LEGACY_PCI if legacy else Bus.PCI
        settings = QtestSettings(self.memory_bytes, bus, options, huge=big_pages)
        heard = Heard()
        with ExitStack() as stack:
            try:
                machine = stack.enter_context(QtestMachine(settings))
            except GuestError as error:
                if big_pages:
                    raise NotApplicable(f"no machine of huge pages can be had: {error}") from error
                raise
            self.name = f"QEMU {machine.version}'s device"
            stack.enter_context(self._control.attending(machine))
            session = DeviceSession(
                machine.transport,
                MarkedMemory(machine.memory, QTEST_LOW_BYTES),
                heard,
                lambda wait_s: _pump(machine, heard, wait_s),
            )
            session.begin(wanted)
            yield session


def _pump(machine: QtestMachine, heard: Heard, wait_s: float) -> None:
    machine.client.listen(wait_s)
    if machine.client.raised:
        queues_used, config_changed = machine.transport.take_interrupt()
        heard.config_changes += config_changed
        if queues_used:  # the line does not say which
            for queue in range(5):
                heard.calls[queue] = heard.calls.get(queue, 0) + 1


class _QemuControl:
    """QEMU's monitor, and migrations through it."""

    def __init__(self) -> None:
        self._machine: QtestMachine | None = None
        self._destination: QtestMachine | None = None
        self._file: Path | None = None
        self._stack = ExitStack()

    @contextmanager
    def attending(self, machine: QtestMachine) -> Iterator[None]:
        """Inside the block, this QEMU is meant."""
        with PrivateDirectory("ballonet-conform-") as directory:
            self._machine, self._file = machine, directory / "stream"
            self._destination = None
            try:
                yield
            finally:
                self._stack.close()
                self._machine = None

    def set_target(self, pages: int) -> None:
        """Ask for a balloon of so many balloon pages."""
        self.machine.set_target(pages)

    def actual_pages(self) -> int:
        """What the host believes to be in the balloon."""
        logical = int(self.machine.command("query-balloon")["actual"])
        return (self.machine.settings.memory_bytes - logical) // BALLOON_PAGE_BYTES

    def set_poll_interval(self, seconds: int) -> None:
        """Ask for statistics again and again. Raises: GuestError."""
        self.machine.command(
            "qom-set",
            path=self.machine.balloon_path,
            property="guest-stats-polling-interval",
            value=seconds,
        )

    def statistics(self) -> dict[str, int]:
        """The last values, by QEMU's keys."""
        path = self.machine.balloon_path
        return dict(self.machine.command("qom-get", path=path, property="guest-stats")["stats"])

    def begin_hints(self) -> None:
        """Begin a migration, slowly."""
        machine = self.machine
        ballast = os.urandom(_BALLAST_BYTES)
        machine.memory.view[_BALLAST_AT : _BALLAST_AT + _BALLAST_BYTES] = ballast
        machine.command("migrate-set-parameters", max_bandwidth=_SLOW_BYTES_PER_S)
        machine.command("migrate", uri=f"exec:cat > {self._file}")

    def end_hints(self) -> None:
        """Let the migration end, and see in a second QEMU what it sent. Raises: GuestError."""
        machine = self.machine
        machine.command("migrate-set-parameters", max_bandwidth=_FAST_BYTES_PER_S)
        self._wait_migration(machine, "completed")
        settings = machine.settings
        incoming = replace(settings, incoming=f"exec:cat {self._file}")
        self._destination = self._stack.enter_context(QtestMachine(incoming))
        self._wait_migration(self._destination, "completed")

    def cancel_hints(self) -> None:
        """Give the migration up, if it still runs."""
        status = self.machine.command("query-migrate").get("status")
        if status in ("active", "setup", "device"):
            self.machine.command("migrate_cancel")
            self._wait_migration(self.machine, "cancelled")

    def was_skipped(self, pfn: int) -> bool:
        """The page is empty at the destination, and is not at the source."""
        if self._destination is None:
            raise GuestError("no migration has ended")
        at = pfn * BALLOON_PAGE_BYTES
        sent = self._destination.memory.read(at, BALLOON_PAGE_BYTES)
        return not any(sent) and any(self.machine.memory.read(at, BALLOON_PAGE_BYTES))

    def _wait_migration(self, machine: QtestMachine, wanted: str) -> None:
        end_s = time.monotonic() + _MIGRATION_S
        while (status := machine.command("query-migrate").get("status")) != wanted:
            if status in ("failed", "cancelled", "completed") or time.monotonic() > end_s:
                raise GuestError(f"the migration is {status}, not {wanted}")
            time.sleep(0.02)

    @property
    def machine(self) -> QtestMachine:
        """The QEMU that is meant. Raises: GuestError."""
        if self._machine is None:
            raise GuestError("QEMU does not run")
        return self._machine
