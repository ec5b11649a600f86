"""Where the time goes between `balloon N` and its effect, and what can hold it up."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from ballonet.errors import GuestError
from ballonet.lab.experiment import Experiment, Kernel
from ballonet.lab.function_trace import FunctionTrace
from ballonet.lab.notebook import Notebook
from ballonet.lab.time_line import Event
from ballonet.lab.traced_guest import TracedGuest, guest_events
from ballonet.lab.virtio_driver import VirtioDriver
from ballonet.lab.waiting import wait_for
from ballonet.units import format_bytes

__all__ = ["EXPERIMENT"]

_MEMORY_BYTES: Final = 256 << 20
_TARGET_BYTES: Final = 248 << 20
#: A file in the guest, and what it is then asked to keep: both cannot be.
_FILE_BYTES: Final = 96 << 20
_SHORT_BYTES: Final = 112 << 20
#: The driver asks for memory five times a second; so often it is seen to get none.
_FAILURES: Final = 3
_NOTHING: Final = "nothing"
_HOLD_S: Final = 0.3  # time for something to happen that must not
_LOOK_S: Final = 0.001
_CALLED, _WORKS, _TELLS = "virtballoon_changed", "update_balloon_size_func", "tell_host"
_FUNCTIONS: Final = (_CALLED, _WORKS, _TELLS, "msleep")
_WRITES: Final = "set_config"
#: What is looked for at the guest's end, and at QEMU's.
_STAGES: Final = {
    _CALLED: "the driver is called",
    _WORKS: "its worker begins",
    _TELLS: "it tells the first message",
    _WRITES: "`actual` changes for the first time",
}


@dataclass(frozen=True, slots=True)
class _Run:
    """One request: when it was made, when its hindrance ended, when each stage was reached."""

    hindrance: str
    asked_ns: int
    released_ns: int
    reached_ns: dict[str, int]
    hindered_bytes: int  #: what the guest had when the hindrance ended
    error_ns: int  #: of the stages at the guest's end

    def is_held_up(self, stage: str) -> bool:
        """It was reached when the hindrance had ended, and not before."""
        return self.reached_ns[stage] + self.error_ns >= self.released_ns


def _on_qemu(notebook: Notebook) -> None:
    with TracedGuest(_MEMORY_BYTES) as traced:
        notebook.runs_on(traced.guest.release, "QEMU")
        driver = VirtioDriver(traced.guest.shell)
        hindrances: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
            _NOTHING: (lambda: None, lambda: None),
            "the guest is paused": (
                lambda: traced.execute("stop"),
                lambda: traced.execute("cont"),
            ),
            "there is no driver": (driver.unbind, driver.bind),
        }
        runs = []
        with traced.tracing(_FUNCTIONS, has_stacks=False) as trace:
            for name, (hinder, release) in hindrances.items():
                notebook.step(f"balloon {_TARGET_BYTES >> 20} is asked for; in its way: {name}")
                runs.append(_request(traced, trace, name, hinder, release))
            stuck_bytes = _squeeze(notebook, traced, trace)
    _note(notebook, runs)
    free, paused, alone = runs
    _claim_order(notebook, free)
    for run in (paused, alone):
        answered = run.reached_ns["the monitor has answered"]
        notebook.claim(
            f"{run.hindrance}: QEMU answers at once, and nothing happens until that ends",
            holds=answered <= run.released_ns
            and run.hindered_bytes == _MEMORY_BYTES
            and all(run.is_held_up(stage) for stage in _STAGES.values()),
        )
    last_ms = max(free.reached_ns.values()) - free.asked_ns
    notebook.conclude(
        f"With nothing in its way the request took {last_ms / 1e6:.1f} ms until the host had its"
        " memory; a guest that was paused, or had no driver, did not begin before that ended; one"
        f" short of memory stopped at {format_bytes(stuck_bytes)} and went on asking."
    )


def _request(
    traced: TracedGuest,
    trace: FunctionTrace,
    name: str,
    hinder: Callable[[], object],
    release: Callable[[], object],
) -> _Run:
    """Ask for the target while something is in its way, let it go, and wait for the end."""
    traced.guest.linux.populate()  # so that what the host gets back is seen
    trace.clear()  # a guest that is paused obeys no command
    hinder()
    held_bytes = _host_bytes(traced)
    asked_ns = time.monotonic_ns()
    traced.execute("balloon", value=_TARGET_BYTES)
    answered_ns = time.monotonic_ns()
    if name != _NOTHING:
        time.sleep(_HOLD_S)
    hindered_bytes = traced.actual_bytes()
    released_ns = time.monotonic_ns()
    release()
    wanted_bytes = held_bytes - (_MEMORY_BYTES - _TARGET_BYTES)
    wait_for(lambda: _host_bytes(traced) <= wanted_bytes, "the host's memory", look_s=_LOOK_S)
    done_ns = time.monotonic_ns()
    wait_for(lambda: traced.actual_bytes() == _TARGET_BYTES, "the target")
    traced.measure_clock()
    calls = trace.read()
    clock = traced.clock(calls)
    events = [*guest_events(calls, clock), *traced.qemu_events()]
    reached_ns = {"the monitor has answered": answered_ns}
    for what, stage in _STAGES.items():
        reached_ns[stage] = _first(events, what, asked_ns - clock.error_ns)
    reached_ns["the host has its memory"] = done_ns
    traced.execute("balloon", value=_MEMORY_BYTES)
    wait_for(lambda: traced.actual_bytes() == _MEMORY_BYTES, "the memory's return")
    return _Run(name, asked_ns, released_ns, reached_ns, hindered_bytes, clock.error_ns)


def _first(events: Sequence[Event], name: str, from_ns: int) -> int:
    """When it was first seen. Raises: GuestError, if it was not."""
    found = [one.at_ns for one in events if one.name == name and one.at_ns >= from_ns]
    if not found:
        raise GuestError(f"{name} was not seen after the request")
    return min(found)


def _host_bytes(traced: TracedGuest) -> int:
    """Host memory behind the guest."""
    return (traced.guest.linux.directory / "memory").stat().st_blocks * 512


def _squeeze(notebook: Notebook, traced: TracedGuest, trace: FunctionTrace) -> int:
    """Ask for more than the guest can give; returns where it came to a stop."""
    shell, balloon = traced.guest.shell, _MEMORY_BYTES - _SHORT_BYTES
    notebook.step(f"a file of {format_bytes(_FILE_BYTES)} fills the guest's memory")
    shell.check(f"dd if=/dev/zero of=/tmp/fill bs=1M count={_FILE_BYTES >> 20}")
    trace.clear()
    earlier = len(traced.qemu_log())
    notebook.step(f"it is asked for {format_bytes(balloon)}, which it does not have")
    traced.execute("balloon", value=_SHORT_BYTES)
    # No command is run in the guest meanwhile: it has no memory for one.
    wait_for(lambda: _failures(traced, earlier) >= _FAILURES, "a driver without success")
    stuck_bytes = traced.actual_bytes()
    notebook.step("the host takes its request back, the file is removed, the host asks again")
    traced.execute("balloon", value=_MEMORY_BYTES)
    wait_for(lambda: traced.actual_bytes() == _MEMORY_BYTES, "the memory's return")
    calls = trace.read()
    puffs = int(shell.run("dmesg | grep -c 'Out of puff'").output)
    shell.check("rm /tmp/fill")
    traced.execute("balloon", value=_SHORT_BYTES)
    wait_for(lambda: traced.actual_bytes() == _SHORT_BYTES, "the target, with memory")
    obeyed_bytes = traced.actual_bytes()
    sleeps = [one for one in calls if one.name == "msleep" and one.detail == _WORKS]
    notebook.see("under pressure it keeps", stuck_bytes, "bytes")
    notebook.see("it was asked to keep", _SHORT_BYTES, "bytes")
    notebook.see("its worker began", sum(one.name == _WORKS for one in calls), "times")
    notebook.see("its worker slept for want of memory", len(sleeps), "times")
    notebook.see("lines `Out of puff!` in its log", puffs)
    notebook.claim(
        "short of memory: it gives what it has, says so, and tries again and again",
        holds=_SHORT_BYTES < stuck_bytes < _MEMORY_BYTES and puffs > 0 and len(sleeps) >= _FAILURES,
    )
    notebook.claim(
        "the same request is obeyed when the file is gone", holds=obeyed_bytes == _SHORT_BYTES
    )
    return stuck_bytes


def _failures(traced: TracedGuest, earlier: int) -> int:
    """How often the driver has written the `actual` that was there, for want of a page."""
    texts = [one.text.split() for one in traced.qemu_log()[earlier:] if one.name.endswith(_WRITES)]
    return sum(words[1] == words[3] for words in texts)


def _note(notebook: Notebook, runs: Sequence[_Run]) -> None:
    rows = [
        (stage, *(f"{(run.reached_ns[stage] - run.asked_ns) / 1e6:.1f}" for run in runs))
        for stage in runs[0].reached_ns
    ]
    ended = (f"{(run.released_ns - run.asked_ns) / 1e6:.1f}" for run in runs)
    notebook.table(
        "ms after the request, by what is in its way",
        ("stage", *(run.hindrance for run in runs)),
        [*rows, ("what was in its way ends", *ended)],
    )
    error_ms = max(run.error_ns for run in runs) / 1e6
    notebook.see("the guest's times are wrong by no more than", error_ms, "ms")


def _claim_order(notebook: Notebook, run: _Run) -> None:
    stages = [(stage, run.reached_ns[stage]) for stage in _STAGES.values()]
    stages = [("the request", run.asked_ns), *stages]
    for (first, first_ns), (then, then_ns) in pairwise(stages):
        notebook.claim(
            f"with nothing in its way: {first}, then {then}",
            holds=then_ns + run.error_ns >= first_ns,
        )


EXPERIMENT: Final = Experiment(
    name="not-at-once",
    question="Why does a balloon sometimes not react at once?",
    answer="The command only leaves a number in the device's configuration and is answered then;"
    " the guest has to run, have a driver, get to its worker, and have memory to give, and each of"
    " these can take any time.",
    explanation="QEMU notes the size and raises an interrupt; that is all that `balloon` waits for."
    " A paused guest hears of it when it runs again. A guest without a driver hears nothing, but"
    " the number stays, and the driver reads it when it comes. The interrupt queues work, which"
    " waits for its turn. A guest without free memory gives what it can, logs `Out of puff!`,"
    " sleeps for 200 ms and tries again for ever; `actual` tells how far. After each message of up"
    " to 256 pages it writes `actual`, and by then QEMU has dropped them.",
    sources=(
        "Virtio specification 1.3, section 5.5.6 (Device Operation)",
        "Linux drivers/virtio/virtio_balloon.c, virtballoon_changed, virtballoon_probe",
        "Linux drivers/virtio/virtio_balloon.c, update_balloon_size_func, fill_balloon",
        "QEMU hw/virtio/virtio-balloon.c, virtio_balloon_to_target",
    ),
    runs={Kernel.QEMU: _on_qemu},
)
