"""Every step of a migration as it happens, in words: for whoever wants to see the order of things.

Looks on, and changes nothing: what it stands before does the work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ballonet.memory.runs import PageRuns
from ballonet.migration.hint_filter import HintSource
from ballonet.migration.passes import Source

__all__ = ["Note", "NotedHints", "NotedSource"]

#: Is told what has just been done.
Note = Callable[[str], None]


class NotedSource:
    """A `Source` before another one."""

    def __init__(self, source: Source, note: Note) -> None:
        self._source, self._note = source, note
        self._sent_pages = 0

    def start_tracking(self) -> None:
        """See every write of the guest and of its device from now on."""
        self._source.start_tracking()
        self._note("every write is seen from now on")

    def stop_tracking(self) -> None:
        """Let them write unseen again."""
        self._source.stop_tracking()
        self._note("writes are not looked for any more")

    def read_guest_log(self) -> PageRuns:
        """What the guest has written."""
        self.tell_sent()
        runs = self._source.read_guest_log()
        self._note(f"guest's log read and begun anew: {runs.total_pages} pages")
        return runs

    def read_device_log(self) -> PageRuns:
        """What the device has written."""
        runs = self._source.read_device_log()
        self._note(f"device's log read and begun anew: {runs.total_pages} pages")
        return runs

    def send(self, runs: PageRuns) -> int:
        """Send these pages as they are now."""
        self._sent_pages += runs.total_pages
        return self._source.send(runs)

    def pause(self, ns: int) -> None:
        """Send nothing for so long."""
        self._source.pause(ns)

    def throttle(self, percent: int) -> None:
        """Let the guest stand still for a part of its time."""
        self._source.throttle(percent)

    def stop_guest(self) -> None:
        """Stop the guest and its device."""
        self.tell_sent()
        self._source.stop_guest()
        self._note("guest and device stand still")

    def resume_guest(self) -> None:
        """Let them go on here."""
        self._source.resume_guest()
        self._note("guest and device go on here")

    def send_holes(self) -> None:
        """Tell which pages are not there."""
        self.tell_sent()
        self._source.send_holes()
        self._note("what is not there any more was told")

    def send_checksums(self, runs: PageRuns) -> None:
        """Tell what is in these pages, to be compared with what has arrived."""
        self._source.send_checksums(runs)
        self._note(f"checksums of {runs.total_pages} pages sent, to be compared there")

    def send_state(self) -> None:
        """Send what there is besides memory."""
        self._source.send_state()
        self._note("states of kernel, driver and device sent")

    def commit(self) -> None:
        """Let the guest go on at the destination."""
        self._source.commit()
        self._note("the destination has it all, and GO: the guest is its own")

    def tell_sent(self) -> None:
        """Tell of what was sent since the last step."""
        if self._sent_pages:
            self._note(f"{self._sent_pages} pages sent")
            self._sent_pages = 0


class NotedHints:
    """A `HintSource` before another one."""

    def __init__(self, hints: HintSource, note: Note, tell_sent: Callable[[], None]) -> None:
        """`tell_sent` tells first what was sent while the round went on."""
        self._hints, self._note, self._tell_sent = hints, note, tell_sent
        self._pages = 0

    def begin(self) -> int:
        """Begin a round."""
        number = self._hints.begin()
        self._note(f"hint round {number:#x} begins" if number >= 0 else "there are no hints")
        return number

    def take(self, wait_ns: int) -> Iterable[tuple[int, PageRuns]]:
        """What came since the last call."""
        for number, runs in self._hints.take(wait_ns):
            self._pages += runs.total_pages
            yield number, runs
        if wait_ns:
            self._tell_taken()

    def stop(self) -> None:
        """End the round."""
        self._tell_taken()
        self._tell_sent()
        self._hints.stop()
        self._note("hint round stopped: STOP is shown, the guest keeps what it hinted")

    def done(self) -> None:
        """Let the guest have its pages back."""
        self._hints.done()
        self._note("DONE is shown: the guest takes back what it hinted")

    def _tell_taken(self) -> None:
        if self._pages:
            self._note(f"{self._pages} pages hinted")
            self._pages = 0
