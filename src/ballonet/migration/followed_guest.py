"""A guest that goes on here while its memory follows it: the process that receives that.

Theory of operation.  The guest's process has its memory watched and waits wherever a page is
missing; here a thread asks for that page, and what comes is put in its place.  The guest's thread
may wait for as long as its source is away, and that process can do nothing meanwhile: so all that
is needed to go on is here, the socket where the source comes again, too.
A new channel takes the place of the old one when its BEGIN is that of this migration.
Each process of this kind may be killed: its parent makes another one, which knows from the journal
what has arrived.  What cannot be put right ends all of them, and the guest waits for ever: it never
sees a page that is not its own.
Units: balloon pages.
"""

from __future__ import annotations

import os
import select
import sys
import time
from contextlib import suppress
from typing import Final

from ballonet.errors import BallonetError, MigrationError, StreamError, SystemCallError
from ballonet.migration.answering_channel import AnsweringChannel
from ballonet.migration.arrival_journal import ArrivalJournal, ArrivalStage
from ballonet.migration.arriving_guest import ArrivingGuest
from ballonet.migration.framing import RecordReader
from ballonet.migration.link import EngineLink
from ballonet.migration.missing import MissingMemory, drop_stale_pages
from ballonet.migration.postcopy import MissingPages, as_set, pages_of_ranges, runs_of
from ballonet.migration.records import (
    FORWARD,
    RUNS_MAX,
    Begin,
    Go,
    Loaded,
    Received,
    Record,
    Wanted,
)
from ballonet.migration.rendezvous import Listener
from ballonet.migration.run_pieces import slices
from ballonet.migration.userfault import Userfault
from ballonet.units import bytes_to_pages

__all__ = ["FollowedGuest"]

#: For whoever connects, to say what he wants: nothing is received meanwhile.
_MEET_S: Final = 5.0
_TELL_NS: Final = 200_000_000


class FollowedGuest:
    """What one process after the other does."""

    def __init__(self, guest: ArrivingGuest) -> None:
        """Have the guest's machine watch its memory. Raises: BallonetError."""
        self._guest, self._link, self._incoming = guest, guest.link, guest.incoming
        pages = bytes_to_pages(guest.size)
        drop_stale_pages(guest.memory_fd, self._incoming.missing)
        answer, _ = self._link.ask("watch")
        self._address = int(answer["address"])
        self._userfault_fd = self._link.take_fd()
        self.journal: Final = ArrivalJournal(as_set(self._incoming.missing, pages))
        self._answers: AnsweringChannel | None = guest.answers
        self._told_ns = 0
        self._memory: MissingMemory

    def work(self, *, is_first: bool) -> int:
        """Receive until all is here; returns the exit code of this process."""
        try:
            self._begin(is_first=is_first)
            while not self._incoming.is_complete:
                self._turn()
            self._finish()
        except BallonetError as error:
            self._give_up(str(error))
            return os.EX_SOFTWARE
        return os.EX_OK

    def release(self) -> None:
        """Let the guest's machine go on with anything, as it will never let the guest run."""
        with suppress(SystemCallError):  # it is gone
            Userfault(self._userfault_fd).unregister(self._address, self._guest.size)

    def _begin(self, *, is_first: bool) -> None:
        if not is_first:
            self._answers = None  # it was the last one's
        journal = self.journal
        missing = journal.missing(self._guest.memory_fd)
        self._memory = MissingMemory(
            os.dup(self._userfault_fd),
            self._address,
            MissingPages(missing),
            self._ask,
            journal.note,
        )
        self._incoming.memory = self._memory
        self._memory.start()
        if is_first:
            self._guest.hand_states_over()
            return
        self._incoming.resume(runs_of(journal.announced & ~missing))
        self._interrupted("the process that received was killed")

    def _turn(self) -> None:
        """Wait for something to come, and take it."""
        answers, listener = self._answers, self._guest.listener
        watched: list[EngineLink | AnsweringChannel | Listener] = [self._link]
        watched += [] if answers is None else [answers]
        watched += [listener] if listener.accepts_more and self.journal.stage else []
        ready, _, _ = select.select(watched, [], [])
        if self._link in ready:
            self._hear_machine()
        if answers is not None and answers in ready:
            self._take(answers)
        elif listener in ready:
            self._meet()

    def _hear_machine(self) -> None:
        """Raises: MigrationError, if it is gone, or cannot load the guest."""
        message = self._link.hear()
        if message is None:
            return
        if message["wish"] != "loaded":
            raise MigrationError(str(message["reason"]))
        used = as_set(pages_of_ranges(message["memory"]), self.journal.announced.size)
        if (used & as_set(self._incoming.missing, used.size)).any():
            raise MigrationError("memory that the guest's device uses is missing")
        if self._answers is not None:
            self.journal.reach(ArrivalStage.LOADED)  # first: once it is said, the guest may be ours
            self._answers.say(Loaded())

    def _take(self, answers: AnsweringChannel) -> None:
        """One record. Raises: BallonetError, if the guest cannot go on after it."""
        try:
            record = answers.receive()
        except (StreamError, MigrationError) as error:
            self._interrupted(str(error))
            return
        try:
            self._incoming.feed(record)
        except StreamError as error:
            answers.give_up(str(error))
            self._interrupted(str(error))
            return
        if isinstance(record, Go) and self.journal.stage is not ArrivalStage.GONE_ON:
            self._link.tell("go", paused=record.is_paused)
            self.journal.reach(ArrivalStage.GONE_ON)
        self._tell_progress()

    def _interrupted(self, reason: str) -> None:
        """The channel is lost. Raises: MigrationError, if there is no going on after that."""
        if self.journal.stage is ArrivalStage.LOADING:
            raise MigrationError(reason)
        if self._answers is not None:
            self._answers.close()
            self._answers = None
        if not self._guest.listener.accepts_more:
            raise MigrationError(f"{reason}; its source cannot come again")
        uri, left_pages = self._guest.listener.uri, self._memory.left_pages
        waits = f"the guest waits for {left_pages} pages"
        if self.journal.stage is ArrivalStage.LOADED:
            waits = "the guest may still run there, and waits"
        _say(f"post-copy is interrupted: {reason}; {waits} until its source resumes to {uri}")
        self._tell("postcopy-paused", reason)

    def _meet(self) -> None:
        """Somebody has come: if it is the source, it takes the place of the channel before."""
        try:
            answers = AnsweringChannel(self._guest.listener.accept(), RecordReader(FORWARD))
        except (MigrationError, OSError):  # whoever it was has left already
            return
        begin = _first_record(answers)
        if begin is None:
            answers.close()
        elif begin != self._guest.begin:
            answers.give_up("here waits another guest, for the rest of its memory")
        else:
            self._change_to(answers, begin)

    def _change_to(self, answers: AnsweringChannel, begin: Begin) -> None:
        if self._answers is not None:
            self._answers.close()
        self._answers = None  # nothing is asked for before the source knows what is here
        self._incoming.resume()
        try:
            self._incoming.feed(begin)
            parts = list(slices(self._incoming.arrived, RUNS_MAX)) or [self._incoming.arrived]
            for number, part in enumerate(parts, 1):
                answers.say(Received(number == len(parts), part))
            self._answers = answers  # first: who waits from here on asks, or is asked for below
            self._memory.ask_again()
        except (StreamError, MigrationError) as error:
            answers.close()
            self._interrupted(str(error))
            return
        _say(f"the source is there again: {self._memory.left_pages} pages are missing")
        self._tell("postcopy-active", None)

    def _ask(self, pfn: int) -> None:
        """On the thread that serves faults. Raises: MigrationError."""
        answers = self._answers
        if answers is None:
            raise MigrationError("there is no channel")
        answers.say(Wanted(pfn))

    def _finish(self) -> None:
        """All is here. The guest's machine knows it first: it has to, whoever is killed."""
        self._link.tell("status", status="completed", reason=None)
        self._memory.finish()
        if self._answers is not None:
            with suppress(MigrationError):
                self._answers.say(Loaded())
            self._answers.close()

    def _give_up(self, reason: str) -> None:
        if self._answers is not None:
            self._answers.give_up(reason)
        if self.journal.stage is not ArrivalStage.LOADING:
            _say(f"the guest cannot go on: {reason}")
        with suppress(MigrationError):
            self._link.tell("status", status="failed", reason=reason)

    def _tell_progress(self) -> None:
        now_ns = time.monotonic_ns()
        if now_ns - self._told_ns >= _TELL_NS:
            self._told_ns = now_ns
            self._tell("postcopy-active", None)

    def _tell(self, status: str, reason: str | None) -> None:
        """Say how far it is; a machine that waits for a page hears it later, or not at all."""
        if self.journal.stage is ArrivalStage.GONE_ON and select.select([], [self._link], [], 0)[1]:
            left_pages = self._memory.left_pages
            self._link.tell("status", status=status, reason=reason, left_pages=left_pages)


def _first_record(answers: AnsweringChannel) -> Begin | None:
    """What somebody says who has come; None: nothing, or nonsense."""
    if not select.select([answers], [], [], _MEET_S)[0]:
        return None
    with suppress(StreamError, MigrationError):
        record: Record = answers.receive()
        if isinstance(record, Begin):
            return record
    return None


def _say(line: str) -> None:
    """To people: the guest's own process may be unable to."""
    sys.stderr.write(f"ballonet: {line}\n")
    sys.stderr.flush()
