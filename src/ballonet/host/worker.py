"""The process of one guest: its device, its monitor, and nothing else of the host.

Begins as a child of the supervisor that was just forked, with the supervisor's memory, of which it
touches as little as possible, and ends without returning to it.
Not here: who starts it again (guest_process.py).
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from ballonet.control.device_control import DeviceControl
from ballonet.device.balloon import BalloonSettings
from ballonet.errors import BallonetError
from ballonet.host.worker_status import PollChange, pack_status
from ballonet.monitor.serving import monitoring
from ballonet.qmp.version import QemuVersion
from ballonet.runtime.children import end_with_parent
from ballonet.runtime.sandbox import Sandbox
from ballonet.vhost_user.server import make_server

__all__ = ["EXIT_QUIT", "WorkerSettings", "become_worker"]

#: A client of the guest's monitor has said `quit`.
EXIT_QUIT: Final = 0
_EXIT_FAILED: Final = 1
_EXIT_TOLD: Final = 128 + signal.SIGTERM
_QUESTION_MAX: Final = 16
_STDERR: Final = 2
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What a worker is started with."""

    name: str
    memory_bytes: int | None  #: None: what its VMM shares
    device: BalloonSettings
    state_path: Path
    sandbox: Sandbox | None
    sock: socket.socket  #: listens for the VMM
    qmp: socket.socket  #: listens for clients of the monitor
    lock_fd: int  #: kept open, so that no other host takes the directory meanwhile
    version: QemuVersion  #: that the monitor speaks as


def become_worker(settings: WorkerSettings, supervisor: socket.socket, parent_pid: int) -> NoReturn:
    """Serve a guest in this process, which is a child with all signals blocked, until its end."""
    code = _EXIT_FAILED
    try:
        gc.freeze()  # what the parent has made is never looked at, and stays shared with it
        gc.enable()
        end_with_parent(parent_pid)
        _take_over_signals()
        _close_all_but(
            settings.sock.fileno(), settings.qmp.fileno(), settings.lock_fd, supervisor.fileno()
        )
        for handler in logging.getLogger().handlers:
            handler.setFormatter(logging.Formatter(f"ballonet: {settings.name}: %(message)s"))
        if settings.sandbox is not None:
            settings.sandbox.enter()
        code = _serve(settings, supervisor)
    except BallonetError as error:
        _log.error("%s", error)
    except BaseException:
        _log.exception("this is a bug in ballonet")
    finally:
        # Not as usual: the parent's objects must not be finalised, nor its stack unwound.
        os._exit(code)


def _take_over_signals() -> None:
    """Leave the parent's handlers; keys of its terminal are the parent's to obey."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())


def _close_all_but(*kept: int) -> None:
    low = _STDERR + 1
    for fd in sorted(kept):
        os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, os.sysconf("SC_OPEN_MAX"))


def _serve(settings: WorkerSettings, supervisor: socket.socket) -> int:
    server = make_server(
        settings.device,
        settings.sock,
        listening=True,
        state_path=settings.state_path,
    )
    control = DeviceControl(server)
    told = False

    def end(*_: object) -> None:
        nonlocal told
        told = True
        server.stop()

    signal.signal(signal.SIGTERM, end)
    server.loop.register(supervisor.fileno(), lambda: _answer(supervisor, control))
    with ExitStack() as stack:

        def begin_monitor() -> None:
            """The first client: until then a guest needs no thread, and no memory for one."""
            server.loop.unregister(settings.qmp.fileno())
            stack.enter_context(
                monitoring(
                    control,
                    [settings.qmp],
                    memory_bytes=settings.memory_bytes,
                    name=settings.name,
                    version=settings.version,
                )
            )

        server.loop.register(settings.qmp.fileno(), begin_monitor)
        server.run()
    return _EXIT_TOLD if told else EXIT_QUIT


def _answer(supervisor: socket.socket, control: DeviceControl) -> None:
    """Do what the supervisor asks for, and tell it how the guest does."""
    try:
        asked = supervisor.recv(_QUESTION_MAX, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return
    if not asked:  # the supervisor has closed it
        control.stop()
        return
    change = PollChange.parse(asked)
    if change is None:
        _tell(supervisor, control)
    else:
        done = control.stats.change_poll_interval(change.interval_s, change.instead_of_s)
        done.add_done_callback(lambda _: _tell(supervisor, control))


def _tell(supervisor: socket.socket, control: DeviceControl) -> None:
    with suppress(OSError):
        supervisor.send(pack_status(control.look()), socket.MSG_DONTWAIT)
