"""One guest's worker, as the supervisor sees it: started, watched, asked, started again, ended.

Theory of operation.  The sockets are the supervisor's, so they stay while workers come and go, and
whoever connects meanwhile waits.  A worker that ends by itself is started again after a pause,
which grows while it keeps doing so.  It is asked with one message and answers with one; nothing
else is read from it, and nobody waits for it longer than a time-out: the time of a question that
is not answered runs from when it was asked, so one that hangs holds up the first to ask only.
Not here: what a worker does (worker.py).
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Final

from ballonet.control.status import Status
from ballonet.errors import SystemCallError, WireError
from ballonet.host.worker import EXIT_QUIT, WorkerSettings, become_worker
from ballonet.host.worker_status import ASK_STATUS, STATUS_BYTES, PollChange, parse_status

__all__ = ["GuestProcess", "WorkerWatcher"]

_PAUSE_S_MIN: Final = 0.1
_PAUSE_S_MAX: Final = 30.0
#: A worker that has lived for so long has not ended for the reason that ended the one before.
_SETTLED_S: Final = 60.0
#: What a worker may take to end; it drops memory and says good-bye to clients meanwhile.
_END_S: Final = 5.0

#: Called with the guest's name, the reason and the pause in seconds; None: its client said `quit`.
WorkerWatcher = Callable[[str, str, float | None], None]


class GuestProcess:
    """Belongs to the supervisor's asyncio loop."""

    def __init__(self, settings: WorkerSettings, ended: WorkerWatcher) -> None:
        self.settings: Final = settings
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._pid: int | None = None
        self._pidfd = -1
        self._control: socket.socket | None = None
        self._answer: asyncio.Future[Status | None] | None = None
        self._asked_s = 0.0  # when it was asked what it has not answered
        self._begun_s = 0.0
        self._pause_s = _PAUSE_S_MIN
        self._restart: asyncio.TimerHandle | None = None
        self._is_ending = False
        self._gone = asyncio.Event()
        self._gone.set()

    @property
    def pid(self) -> int | None:
        """Of the worker, if there is one."""
        return self._pid

    @property
    def state(self) -> str:
        """In a word."""
        if self._is_ending:
            return "ending"
        return "restarting" if self._pid is None else "running"

    def start(self) -> None:
        """Start a worker. Raises: SystemCallError."""
        try:
            self._fork()
        except OSError as error:
            reason = error.strerror or str(error)
            raise SystemCallError("starting", self.settings.name, reason) from error
        self._begun_s = self._loop.time()

    async def ask(self, timeout_s: float) -> Status | None:
        """How the guest does; None if no worker says so in time."""
        if self._answer is None:
            self._send(ASK_STATUS)
        if self._answer is None:
            return None
        answer = self._answer
        left_s = self._asked_s + timeout_s - self._loop.time()
        done, _ = await asyncio.wait({answer}, timeout=max(0.0, left_s))
        return answer.result() if done else None

    async def change_polling(self, change: PollChange, timeout_s: float) -> Status | None:
        """Have the guest asked for statistics at another interval; how it does then."""
        while self._answer is not None:
            if await self.ask(timeout_s) is None:
                return None
        self._send(change.pack())
        return await self.ask(timeout_s)

    async def end(self) -> None:
        """End the worker, and start no other."""
        self._is_ending = True
        if self._restart is not None:
            self._restart.cancel()
        self._kill(signal.SIGTERM)
        late = self._loop.call_later(_END_S, lambda: self._kill(signal.SIGKILL))
        await self._gone.wait()
        late.cancel()

    def _send(self, question: bytes) -> None:
        """Ask, unless there is nobody who could answer."""
        if self._control is None:
            return
        try:
            self._control.send(question)
        except OSError:  # it is ending: its end is noticed elsewhere
            return
        self._answer, self._asked_s = self._loop.create_future(), self._loop.time()
        self._loop.add_reader(self._control, self._read_answer)

    def _fork(self) -> None:
        """Raises: OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            ours.settimeout(0)
            parent_pid = os.getpid()
            # A signal that came between would be taken for one of the parent's.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            gc.disable()  # a collection in the child would touch all memory of the parent
            try:
                pid = os.fork()
                if pid == 0:
                    become_worker(self.settings, theirs, parent_pid)
            except OSError:
                ours.close()
                raise
            finally:
                gc.enable()
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._pid, self._control = pid, ours
        self._gone.clear()
        try:
            self._pidfd = os.pidfd_open(pid)
            self._loop.add_reader(self._pidfd, self._notice_end)
        except OSError:
            self._kill(signal.SIGKILL)
            os.waitpid(pid, 0)
            self._clear()
            raise

    def _kill(self, number: signal.Signals) -> None:
        if self._pid is not None:  # not waited for yet, so the number is still its own
            os.kill(self._pid, number)

    def _notice_end(self) -> None:
        pid, status = os.waitpid(self._pid or 0, os.WNOHANG)
        if pid == 0:
            return
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._clear()
        if self._is_ending:
            return
        code = os.waitstatus_to_exitcode(status)
        if code == EXIT_QUIT:
            self._ended(self.settings.name, "quit", None)
        else:
            self._start_again(_reason(code))

    def _clear(self) -> None:
        self._heard(None)
        if self._control is not None:
            self._control.close()
        self._pid, self._control = None, None
        self._gone.set()

    def _start_again(self, reason: str) -> None:
        if self._loop.time() - self._begun_s >= _SETTLED_S:
            self._pause_s = _PAUSE_S_MIN
        pause_s, self._pause_s = self._pause_s, min(2 * self._pause_s, _PAUSE_S_MAX)
        self._restart = self._loop.call_later(pause_s, self._try_again)
        self._ended(self.settings.name, reason, pause_s)

    def _try_again(self) -> None:
        try:
            self.start()
        except SystemCallError as error:
            self._start_again(str(error))

    def _read_answer(self) -> None:
        """Exactly one message is read for each question, whatever the worker sends."""
        if self._control is None:
            return
        try:
            raw = self._control.recv(STATUS_BYTES + 1)
        except BlockingIOError:
            return
        except OSError:
            raw = b""
        try:
            self._heard(parse_status(raw, time.monotonic_ns()))
        except WireError:
            self._heard(None)
            self._kill(signal.SIGKILL)  # it is not itself any more, or about to end

    def _heard(self, status: Status | None) -> None:
        answer, self._answer = self._answer, None
        if answer is not None and self._control is not None:
            self._loop.remove_reader(self._control)
            answer.set_result(status)


def _reason(code: int) -> str:
    """What an exit code of Python's kind means."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
