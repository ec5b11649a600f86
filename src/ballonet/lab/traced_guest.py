"""A guest in QEMU of which every end tells what it does: its kernel, QEMU, and we.

QEMU writes down its own events, its monitor's are heard on a thread, and marks that a shell in the
guest writes into the kernel's trace make the guest's clock comparable with ours.
Not here: which functions are traced (function_trace.py).
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from ballonet.errors import GuestError
from ballonet.guests.qemu_balloon import QemuBalloonGuest
from ballonet.lab.clock_offset import STEADY_CLOCK, RoundTrip, SharedClock, shortest
from ballonet.lab.function_trace import TRACING, FunctionTrace
from ballonet.lab.monitor_events import MonitorEvents, wall_ahead_ns
from ballonet.lab.notebook import Notebook
from ballonet.lab.qemu_log import QemuEvent, parse_qemu_log
from ballonet.lab.time_line import Event
from ballonet.lab.trace_lines import MARK, TraceEntry
from ballonet.units import format_bytes

__all__ = ["BALLOON_EVENTS", "TracedGuest", "guest_events", "note_clock"]

#: What QEMU's balloon tells of itself, but not each page of a message.
BALLOON_EVENTS: Final = (
    "virtio_balloon_to_target",
    "virtio_balloon_get_config",
    "virtio_balloon_set_config",
)
_PREFIX: Final = "virtio_balloon_"
_LINE: Final = "ttyS2"
#: A shell that needs nothing but itself to answer: no process is started for a mark.  A line tells
#: of what arrives after the time of four letters, which is four milliseconds at its usual speed.
_MARKER: Final = (
    "setsid sh -c 'echo -1000 > /proc/self/oom_score_adj; stty 115200 raw -echo;"
    f' while read -r mark; do echo "$mark" > {TRACING}/trace_marker; echo "$mark"; done\''
    f" < /dev/{_LINE} > /dev/{_LINE} 2> /dev/null &"
)
#: Names of values that are sizes in bytes.
_SIZES: Final = frozenset({"actual", "value"})
_ROUND_TRIPS: Final = 40
_ANSWER_S: Final = 120.0
#: An emulated line was seen to stand still until something arrived on it.
_NUDGE_S: Final = 5.0


class TracedGuest:
    """One guest, from its start to its end; a context manager."""

    def __init__(
        self,
        memory_bytes: int,
        *balloon_options: str,
        qemu_events: Sequence[str] = BALLOON_EVENTS,
        arguments: tuple[str, ...] = (),
    ) -> None:
        """`balloon_options`: of virtio-balloon-pci; `arguments`: further ones of QEMU."""
        self.guest: Final = QemuBalloonGuest(
            memory_bytes,
            *balloon_options,
            command_line=(STEADY_CLOCK,),
            arguments=(
                *("-serial", "unix:{}/marks,server=on,wait=off"),
                *("-qmp", "unix:{}/events,server=on,wait=off"),
                *("-name", "debug-threads=on"),
                *("-msg", "timestamp=on", "-D", "{}/log"),
                *(word for event in qemu_events for word in ("-trace", event)),
                *arguments,
            ),
        )
        self.events: MonitorEvents
        self.told: list[Event] = []  #: what we have sent, and the answers
        self._stack = ExitStack()
        self._trips: list[dict[str, tuple[int, int]]] = []  # of each measurement, by its mark
        self._marks = 0
        self._line: socket.socket

    def __enter__(self) -> Self:
        """Boot. Raises: GuestError; MonitorError."""
        with ExitStack() as stack:
            guest = stack.enter_context(self.guest)
            self.events = stack.enter_context(MonitorEvents(guest.linux.directory / "events"))
            self._line = stack.enter_context(guest.linux.connect("marks"))
            guest.shell.check(f"mount -t tracefs tracefs {TRACING}; {_MARKER}")
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._stack.close()

    def tracing(
        self,
        functions: Sequence[str],
        *,
        events: Sequence[str] = (),
        probes: Sequence[str] = (),
        has_stacks: bool = True,
    ) -> FunctionTrace:
        """Have its kernel trace these inside a block; see `FunctionTrace`."""
        return FunctionTrace(
            self.guest.shell, functions, events=events, probes=probes, has_stacks=has_stacks
        )

    def execute(self, command: str, **arguments: object) -> Any:  # noqa: ANN401 - JSON
        """Tell QEMU's monitor something, and note when. Raises: MonitorError."""
        said = " ".join(_in_words(name, value) for name, value in arguments.items())
        return self._execute(said, command, **arguments)

    def poll_statistics(self, seconds: int) -> None:
        """Have QEMU ask for statistics so often; 0: not at all."""
        path, name = self.guest.balloon_path, "guest-stats-polling-interval"
        self._execute(f"{name} {seconds}", "qom-set", path=path, property=name, value=seconds)

    def _execute(self, said: str, command: str, **arguments: object) -> Any:  # noqa: ANN401
        began_ns = time.monotonic_ns()
        answer = self.guest.monitor.execute(command, **arguments)
        ended_ns = time.monotonic_ns()
        self.told.append(Event(began_ns, "we", f"send {command}", said, ended_ns - began_ns))
        return answer

    def actual_bytes(self) -> int:
        """What QEMU's monitor says that the guest has; not noted."""
        return int(self.guest.monitor.execute("query-balloon")["actual"])

    def measure_clock(self) -> None:
        """Have marks written into the guest's trace, which must be on. Raises: GuestError."""
        trips = {}
        for _ in range(_ROUND_TRIPS):
            self._marks += 1
            mark = f"mark{self._marks}"
            began_ns = time.monotonic_ns()
            self._write_mark(mark)
            trips[mark] = (began_ns, time.monotonic_ns())
        self._trips.append(trips)

    def clock(self, entries: Iterable[TraceEntry]) -> SharedClock:
        """The guest's clock in terms of ours, from the marks in a trace. Raises: GuestError."""
        marked = {one.detail: one.at_ns for one in entries if one.name == MARK}
        measured = [
            [
                RoundTrip(sent_ns, marked[mark], heard_ns)
                for mark, (sent_ns, heard_ns) in trips.items()
                if mark in marked
            ]
            for trips in self._trips
        ]
        return SharedClock([shortest(trips) for trips in measured if trips])

    def qemu_events(self) -> list[Event]:
        """What QEMU has written down of itself, in the order of its log."""
        ahead_ns = wall_ahead_ns()
        return [
            Event(one.wall_ns - ahead_ns, "QEMU", one.name.removeprefix(_PREFIX), one.text)
            for one in self.qemu_log()
        ]

    def qemu_log(self) -> list[QemuEvent]:
        """The same, with the threads."""
        path = self.guest.linux.directory / "log"
        return parse_qemu_log(path.read_text(errors="replace")) if path.exists() else []

    def threads(self) -> dict[int, str]:
        """Names of QEMU's threads, by their numbers, as they are now."""
        names = {}
        for task in Path(f"/proc/{self.guest.linux.pid}/task").iterdir():
            with suppress(OSError):  # it has just ended
                names[int(task.name)] = (task / "comm").read_text().strip()
        return names

    def heard_events(self) -> list[Event]:
        """What the monitor told without being asked: when QEMU made it, and when we heard it."""
        ahead_ns, events = wall_ahead_ns(), []
        for one in list(self.events.heard):
            said = _in_words("actual", one.data.get("actual", ""))
            events.append(Event(one.stamp_ns - ahead_ns, "QEMU", f"make {one.name}", said))
            events.append(Event(one.heard_ns, "we", f"hear {one.name}", said))
        return events

    def _write_mark(self, mark: str) -> None:
        end_s = time.monotonic() + _ANSWER_S
        self._line.settimeout(_NUDGE_S)
        self._line.sendall(f"{mark}\n".encode())
        said = b""
        while mark not in said.decode(errors="replace").split():
            try:
                said += self._line.recv(1 << 12)
            except TimeoutError:
                if time.monotonic() > end_s:
                    raise GuestError("the guest writes no marks into its trace") from None
                self._line.sendall(b"\n")


def note_clock(notebook: Notebook, clock: SharedClock) -> None:
    """Write down how far the guest's clock is from ours, and how well that is known."""
    notebook.see("the guest's clock is ahead of ours by", clock.offset_ns / 1e6, "ms")
    notebook.see("and that is wrong by no more than", clock.error_ns / 1e6, "ms")


def guest_events(entries: Iterable[TraceEntry], clock: SharedClock) -> list[Event]:
    """What a kernel has traced, by our clock; the marks are left out."""
    return [
        Event(clock.ours_ns(one.at_ns), _end(one), one.name, stack=one.stack)
        for one in entries
        if one.name != MARK
    ]


def _end(entry: TraceEntry) -> str:
    if entry.is_in_interrupt:
        return "guest, interrupt"
    return "guest, worker" if entry.is_worker else "guest"


def _in_words(name: str, value: object) -> str:
    """A value of a command or an event; of `balloon` and of BALLOON_CHANGE it is a size."""
    return format_bytes(value) if name in _SIZES and isinstance(value, int) else str(value)
