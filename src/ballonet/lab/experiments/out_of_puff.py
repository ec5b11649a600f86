"""Why the driver says "Out of puff!", how often, and what that costs."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ballonet.balloon.facts import ChainDone, ConfigAnnounced, ConfigRead, Fact
from ballonet.lab.driver_guest import driver_guest
from ballonet.lab.experiment import Experiment, Kernel
from ballonet.lab.notebook import Notebook
from ballonet.lab.waiting import becomes, wait_until
from ballonet.units import bytes_to_pages, format_bytes, pages_to_bytes
from ballonet.virtio.features import Feature
from ballonet.virtio.queues import QueueRole

__all__ = ["EXPERIMENT"]

#: With DEFLATE_ON_OOM the guest's own programs get memory however little the balloon leaves.
_OFFERED: Final = Feature.MUST_TELL_HOST | Feature.DEFLATE_ON_OOM
_MEMORY_BYTES: Final = 256 << 20
_FILE_MIB: Final = 128
_TARGET_PAGES: Final = bytes_to_pages(160 << 20)
_MESSAGE: Final = "Out of puff! Can't get 1 pages"
_TRIES: Final = 30
_MESSAGE_PAGES: Final = 256  #: the most that Linux puts into a balloon by one try
#: fill_balloon sleeps so long after a page could not be had.
_SLEEP_S: Final = 0.2
#: What the kernel lets through of one message (DEFAULT_RATELIMIT_BURST, ..._INTERVAL).
_BURST, _BURST_S = 10, 5.0


@dataclass(frozen=True, slots=True)
class _Try:
    """From one look at num_pages to the next."""

    seconds: float
    pages: int  #: that were put into the balloon

    @property
    def came_short(self) -> bool:
        """The driver found no more memory, and slept."""
        return self.pages < _MESSAGE_PAGES


class _Watch:
    """What the driver does; on the device's thread."""

    def __init__(self) -> None:
        self.announced = 0
        self.tries: Final[list[_Try]] = []
        self._began_s: float | None = None
        self._pages = 0

    @property
    def short_tries(self) -> list[_Try]:
        """Those for which there was not enough memory."""
        return [one for one in self.tries if one.came_short]

    def observe(self, fact: Fact) -> None:
        match fact:
            case ConfigAnnounced():
                self.announced += 1
            case ChainDone(QueueRole.INFLATE, pages):
                self._pages += pages
            case ConfigRead():
                now_s = time.monotonic()
                if self._began_s is not None:
                    self.tries.append(_Try(now_s - self._began_s, self._pages))
                self._began_s, self._pages = now_s, 0


def _on_uml(notebook: Notebook) -> None:
    watch = _Watch()
    with driver_guest(notebook, _OFFERED, memory_bytes=_MEMORY_BYTES) as machine:
        guest, device = machine.guest, machine.device
        notebook.step(f"a file of {_FILE_MIB} MiB is in the guest's memory")
        guest.check(f"dd if=/dev/zero of=/tmp/file bs=1M count={_FILE_MIB}")
        device.set_target(_TARGET_PAGES)
        notebook.step(f"a balloon of {_TARGET_PAGES:,} pages is asked for, more than there is")
        wait_until(lambda: _MESSAGE in guest.kernel_log(), "the driver does not run out of memory")
        notebook.step("nothing more is said to the driver")
        device.subscribe(watch.observe, details=True)
        began_s, lines, used_s = time.monotonic(), _count(guest.kernel_log()), _cpu_s(guest.pid)
        wait_until(lambda: len(watch.short_tries) >= _TRIES, "the driver does not try again")
        device.unsubscribe(watch.observe)
        seconds, used_s = time.monotonic() - began_s, _cpu_s(guest.pid) - used_s
        log = guest.kernel_log()
        lines, actual_pages = _count(log) - lines, device.status().actual_pages
        notebook.step("the file is removed")
        guest.check("rm /tmp/file")
        reached = becomes(lambda: device.status().actual_pages == _TARGET_PAGES)
    _show(notebook, watch, log, lines=lines, seconds=seconds, used_s=used_s)
    _claim(notebook, watch, lines=lines, seconds=seconds)
    notebook.claim("it stays below its target as long", holds=actual_pages < _TARGET_PAGES)
    notebook.claim("it reaches the target by itself once there is memory", holds=reached)
    notebook.conclude(
        f"With {format_bytes(pages_to_bytes(actual_pages))} in a balloon that should have"
        f" {format_bytes(pages_to_bytes(_TARGET_PAGES))} the driver tried {len(watch.tries)}"
        f" times in {seconds:.1f} s without being told anything, which cost"
        f" {used_s * 1000:.0f} ms of processor time and {lines} lines in the log."
    )


def _show(
    notebook: Notebook, watch: _Watch, log: str, *, lines: int, seconds: float, used_s: float
) -> None:
    notebook.block("the end of the guest's log", "\n".join(log.splitlines()[-3:]))
    notebook.see("watched for", seconds, "s")
    notebook.see("changes of the configuration that the driver was told of", watch.announced)
    notebook.see("times it read num_pages, and tried", len(watch.tries))
    notebook.see("of these it found too little memory", len(watch.short_tries))
    notebook.see("the shortest of these took", _shortest_s(watch) * 1000, "ms")
    notebook.see("lines in the log", lines)
    notebook.see("processor time of the guest's kernel", used_s * 1000, "ms")


def _claim(notebook: Notebook, watch: _Watch, *, lines: int, seconds: float) -> None:
    notebook.claim(
        "the driver tries again by itself: nobody told it anything",
        holds=watch.announced == 0 and len(watch.short_tries) >= _TRIES,
    )
    notebook.claim(
        "it sleeps for 200 ms whenever it found too little",
        holds=_shortest_s(watch) > _SLEEP_S * 3 / 4,
    )
    notebook.claim(
        f"its message is rate-limited, to {_BURST} lines in {_BURST_S:.0f} s",
        holds=0 < lines <= _BURST * (2 + seconds // _BURST_S) and lines <= len(watch.tries) + 1,
    )


def _count(log: str) -> int:
    return log.count(_MESSAGE)


def _shortest_s(watch: _Watch) -> float:
    return min((one.seconds for one in watch.short_tries), default=0.0)


def _cpu_s(pid: int) -> float:
    """Processor time that a process has used so far."""
    # After the name, which may have spaces: state is field 3, utime and stime are 14 and 15.
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


EXPERIMENT: Final = Experiment(
    name="out-of-puff",
    question='Why does the guest log "Out of puff! Can\'t get 1 pages" again and again?',
    answer="The balloon is to become bigger than the guest can give, and the driver tries again"
    " every 200 ms until it has what the host asked for, or the host asks for less.",
    explanation="fill_balloon takes one page after the other without touching reserves. When there"
    " is none it says so, sleeps for 200 ms and goes on with what it got; then"
    " update_balloon_size_func writes actual, sees that the target is not reached, and queues"
    " itself again at once. Nothing but the target stops it. It costs little: a few hundred"
    " microseconds a try, and ten lines in five seconds, because the message is rate-limited; but"
    " the guest has no free memory as long.",
    sources=(
        "Linux drivers/virtio/virtio_balloon.c, fill_balloon, update_balloon_size_func",
        "Linux include/linux/ratelimit_types.h, DEFAULT_RATELIMIT_INTERVAL",
        "Virtio specification 1.3, section 5.5.6.1 (Driver Requirements: Device Operation)",
    ),
    runs={Kernel.UML: _on_uml},
)
