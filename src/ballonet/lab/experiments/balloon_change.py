"""When BALLOON_CHANGE is sent, and what it says: by QEMU's monitor and by ours."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Final, NamedTuple

from ballonet.device.balloon import BalloonSettings
from ballonet.guests.ballooned import BalloonedGuest
from ballonet.guests.linux import LinuxGuestSettings
from ballonet.guests.processes import PrivateDirectory
from ballonet.lab.experiment import Experiment, Kernel
from ballonet.lab.monitor_events import HeardEvent, MonitorEvents, wall_ahead_ns
from ballonet.lab.notebook import Notebook
from ballonet.lab.traced_guest import TracedGuest
from ballonet.lab.virtio_driver import VirtioDriver
from ballonet.lab.waiting import wait_for
from ballonet.monitor.serving import monitoring
from ballonet.runtime.monitor_socket import MonitorSocket
from ballonet.units import format_bytes
from ballonet.vhost_user.listener import listening_socket

__all__ = ["EXPERIMENT"]

_GUEST_BYTES: Final = 256 << 20
_BALLOON_BYTES: Final = 64 << 20
_MESSAGE_BYTES: Final = 256 << 12  #: the driver writes `actual` after so much
_NAME: Final = "BALLOON_CHANGE"
_INTERVAL_S: Final = 1.0
_EARLY_S: Final = 0.01  # for clocks that are read one after the other
_QUIET_S: Final = 1.5  # so long after an event the next one is sent at once


class _Monitored(NamedTuple):
    """A machine with a monitor, whoever serves it."""

    server: str
    events: MonitorEvents
    execute: Callable[..., Any]
    driver: VirtioDriver


def _on_qemu(notebook: Notebook) -> None:
    with TracedGuest(_GUEST_BYTES) as traced:
        notebook.runs_on(traced.guest.release, "QEMU")
        driver = VirtioDriver(traced.guest.shell)
        _watch(notebook, _Monitored("QEMU", traced.events, traced.execute, driver))
        writes = [one.text for one in traced.qemu_log() if one.name.endswith("set_config")]
    notebook.see("`actual` was written to QEMU's device", len(writes), "times")
    notebook.claim(
        "the driver that left an empty balloon did write `actual`: the same as before",
        holds=any(text.split() == ["actual:", "0", "oldactual:", "0"] for text in writes),
    )


def _on_uml(notebook: Notebook) -> None:
    with _our_machine() as (machine, monitored):
        notebook.runs_on(machine.guest.release, "User-Mode Linux")
        _watch(notebook, monitored)


@contextmanager
def _our_machine() -> Iterator[tuple[BalloonedGuest, _Monitored]]:
    with (
        PrivateDirectory("ballonet-lab-") as directory,
        BalloonedGuest(LinuxGuestSettings(_GUEST_BYTES), BalloonSettings()) as machine,
        listening_socket(directory / "qmp") as commands,
        listening_socket(directory / "events") as events,
        monitoring(machine.device, [commands, events]),
        MonitorEvents(directory / "events") as heard,
    ):
        monitor = MonitorSocket(directory / "qmp")
        try:
            driver = VirtioDriver(machine.guest)
            yield machine, _Monitored("our monitor", heard, monitor.execute, driver)
        finally:
            monitor.close()


def _watch(notebook: Notebook, machine: _Monitored) -> None:
    whole_bytes = _actual(machine)
    target_bytes = whole_bytes - _BALLOON_BYTES
    notebook.step(f"{machine.server} is asked for a balloon of {format_bytes(_BALLOON_BYTES)}")
    grown = _resize(machine, target_bytes)
    notebook.step("and then for none")
    shrunk = _resize(machine, whole_bytes)
    time.sleep(_QUIET_S)
    heard = len(machine.events.named(_NAME))
    notebook.step("the driver leaves, and writes `actual` = 0 once more; it comes back")
    machine.driver.unbind()
    machine.driver.bind()
    notebook.step("which is asked for 1 MiB: whatever was sent before is heard before")
    _resize(machine, whole_bytes - _MESSAGE_BYTES)
    later = machine.events.named(_NAME)[heard:]
    unchanged = sum(one.data["actual"] == whole_bytes for one in later)
    _note(notebook, machine.server, "it grows", grown)
    _note(notebook, machine.server, "it shrinks", shrunk)
    notebook.claim(
        "the first event is sent at once, after the first message of 1 MiB",
        holds=grown[0].data == {"actual": whole_bytes - _MESSAGE_BYTES},
    )
    notebook.claim(
        "an event says what the guest keeps: its memory less the balloon, never more than wanted",
        holds=all(target_bytes <= one.data["actual"] <= whole_bytes for one in (*grown, *shrunk)),
    )
    for what, events in (("growing", grown), ("shrinking", shrunk)):
        notebook.claim(
            f"while it is {what}, there is no more than one event a second",
            holds=len(events) - 1 <= _seconds(events) / _INTERVAL_S + _EARLY_S,
        )
    notebook.claim(
        "the last event says where the balloon stands",
        holds=grown[-1].data["actual"] == target_bytes and shrunk[-1].data["actual"] == whole_bytes,
    )
    notebook.claim(
        f"no event where `actual` stays as it was ({machine.server})", holds=not unchanged
    )
    messages = _BALLOON_BYTES // _MESSAGE_BYTES
    notebook.conclude(
        f"{machine.server} sent {len(grown)} events for {messages} changes of `actual` when the"
        f" balloon grew, {len(shrunk)} when it shrank, and {unchanged} for a write that changed"
        " nothing; the last one was always right."
    )


def _actual(machine: _Monitored) -> int:
    return int(machine.execute("query-balloon")["actual"])


def _resize(machine: _Monitored, size_bytes: int) -> Sequence[HeardEvent]:
    """The events until one says that it is done."""
    earlier = len(machine.events.named(_NAME))

    def is_done() -> bool:
        now = machine.events.named(_NAME)[earlier:]
        return bool(now) and now[-1].data["actual"] == size_bytes

    machine.execute("balloon", value=size_bytes)
    wait_for(is_done, f"{_NAME} of {format_bytes(size_bytes)}")
    return machine.events.named(_NAME)[earlier:]


def _seconds(events: Sequence[HeardEvent]) -> float:
    """From when the first was made until the last was heard: they were sent in between."""
    return (events[-1].heard_ns + wall_ahead_ns() - events[0].stamp_ns) / 1e9


def _note(notebook: Notebook, server: str, what: str, events: Sequence[HeardEvent]) -> None:
    since_s = [
        0.0,
        *((after.heard_ns - before.heard_ns) / 1e9 for before, after in pairwise(events)),
    ]
    rows = [
        (format_bytes(one.data["actual"]), f"{seconds:.2f}")
        for one, seconds in zip(events, since_s, strict=True)
    ]
    title = f"{_NAME} of {server} while {what}"
    notebook.table(title, ("actual", "seconds after the one before"), rows)


EXPERIMENT: Final = Experiment(
    name="balloon-change",
    question="When is BALLOON_CHANGE sent, and what does it say?",
    answer="Whenever the driver writes an `actual` that is not the one before, but at most once a"
    " second, and the last value is never left out; it says what the guest keeps, in bytes.",
    explanation="QEMU compares in virtio_balloon_set_config, and sends the memory of the machine"
    " less `actual`. Its monitor limits the event: the first goes out at once, what comes within a"
    " second replaces what waits, and what waits goes out when the second is over. So a client"
    " hears of the end, but not of every step. The driver writes `actual` after each message of up"
    " to 256 pages, and a write that changes nothing (a driver that leaves with an empty balloon,"
    " one that cannot get a page) is told to nobody. Our monitor keeps the same rules.",
    sources=(
        "QEMU hw/virtio/virtio-balloon.c, virtio_balloon_set_config",
        "QEMU monitor/monitor.c, monitor_qapi_event_conf, monitor_qapi_event_queue_no_reenter",
        "QEMU qapi/machine.json, BALLOON_CHANGE",
        "Linux drivers/virtio/virtio_balloon.c, update_balloon_size, remove_common",
    ),
    runs={Kernel.QEMU: _on_qemu, Kernel.UML: _on_uml},
)
