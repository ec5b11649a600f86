"""Where the program starts: finds the verb, and turns errors into one line and an exit code.

Verbs are imported when used, so `ballonet --help` needs neither numpy nor any part of the device.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
from contextlib import suppress
from importlib import import_module
from types import FrameType
from typing import Final, NoReturn

import click

import ballonet
from ballonet.cli.file_limit import raise_file_limit
from ballonet.errors import BallonetError, SettingsError

__all__ = ["main", "vhost_user_balloon"]

#: Verb -> module that defines a command of the same name, and what the verb does.
VERBS: Final = {
    "agent": "Watch every VM of this host, and serve metrics of them.",
    "autopilot": "See what the autopilot of the agent decides, and why; tell it what to do.",
    "conform": "Check a device or a driver against the specification.",
    "demo": "A real Linux kernel gives memory back, and takes it again.",
    "device": "Serve a balloon device to a VMM over vhost-user.",
    "dirty-rate": "Measure how much memory a guest writes.",
    "doctor": "Say what this machine can do, and what is missing.",
    "features": "Observe every feature of a balloon on a real kernel.",
    "guest": "Start a guest by hand.",
    "hints": "Ask a guest for free page hints, as a migration would.",
    "history": "Show the last hours of every VM, as the agent remembers them.",
    "host": "Serve balloon devices to many VMMs, each from a process of its own.",
    "image": "Check memory snapshots, or compare them with a guest.",
    "info": "Show a guest's balloon, ours or QEMU's.",
    "lab": "Answer a question about ballooning by an experiment.",
    "list": "Show every VM of this machine, and how it can be reached.",
    "migrate": "Move a running VM, ours or QEMU's.",
    "monitor": "Type a monitor's commands.",
    "receive": "Wait for a guest that moves here.",
    "set": "Set how much memory a guest keeps.",
    "snapshot": "Write the memory of a running Linux guest to a file.",
    "stats": "Show a guest's memory statistics.",
    "top": "Show every VM of this machine live, with memory, rates and sizes.",
    "trace": "Print a recorded conversation of guest and device.",
}

# The threads of numpy's linear algebra, which nothing here uses, are started when it is imported;
# a process with threads cannot fork safely, and those would keep their capabilities.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

EXIT_FAILED: Final = 1
EXIT_WRONG_USE: Final = 2
EXIT_INTERRUPTED: Final = 130

#: After a signal: longer than whatever was started needs to end.
AGAIN_S: Final = 20.0

#: Of a write that does not say to which file.
_WRITE_ERRORS: Final = {errno.ENOSPC, errno.EIO, errno.EFBIG, errno.EDQUOT, errno.EPIPE}
_log = logging.getLogger(__name__)


class _LazyVerbs(click.Group):
    """A group whose commands are modules of this package."""

    def list_commands(self, _: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, _: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        module = name.replace("-", "_")
        command: click.Command = getattr(import_module(f"ballonet.cli.{module}"), module)
        return command

    def format_commands(self, _: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=_LazyVerbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-v", "--verbose", count=True, help="Say more on stderr; twice for every message.")
@click.version_option(ballonet.__version__)
def program(verbose: int) -> None:
    """Memory ballooning for virtual machines."""
    levels = [logging.WARNING, logging.INFO, logging.DEBUG]
    logging.basicConfig(format="ballonet: %(message)s", level=levels[min(verbose, 2)])


def main() -> None:
    """Run the program and leave with its exit code."""
    sys.exit(_run(program))


def vhost_user_balloon() -> None:
    """Run the device alone, under the name back-ends are looked for."""
    from ballonet.cli.device import device  # noqa: PLC0415 - `ballonet --help` does without

    sys.exit(_run(device))


def _run(command: click.Command) -> int:
    """Run a command to its end; whatever ends it, in an exit code and at most one line."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, _leave)
    raise_file_limit()
    try:
        code = _run_command(command)
        if sys.stdout is not None:  # it was open when the program started
            sys.stdout.flush()
    except OSError as error:
        code = EXIT_FAILED
        _log.debug("this ended the program", exc_info=error)
        _complain_of_system(error)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return code


def _leave(number: int, _: FrameType | None) -> NoReturn:
    """End by an exception, so that whatever was started is ended and removed.

    It may strike where exceptions are lost: where an object is finalised, or while another one is
    handled that takes its place.  So it comes again, until the program has ended.
    """
    signal.signal(signal.SIGALRM, lambda _, frame: _leave(number, frame))
    signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)


def _run_command(command: click.Command) -> int:
    try:
        command.main(standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return error.exit_code
    except click.ClickException as error:
        _complain(error.format_message())
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except SettingsError as error:
        _complain(str(error))
        return EXIT_WRONG_USE
    except BallonetError as error:
        _complain(str(error))
        return EXIT_FAILED
    except OSError as error:
        if error.errno not in {errno.EMFILE, errno.ENFILE}:
            raise
        _complain(f"{error.strerror}; `ulimit -n` says how many there may be")
        return EXIT_FAILED
    return 0


def _complain(text: str) -> None:
    with suppress(OSError):  # stderr may be full, too
        click.echo(f"ballonet: {text}", err=True)


def _complain_of_system(error: OSError) -> None:
    """One line on what the system refused; none, if whoever read our output has left."""
    culprit = error.filename
    if culprit is None and error.errno in _WRITE_ERRORS and sys.stdout is not None:
        culprit = "standard output"
        # The interpreter must not try again at the end, and complain of it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if not isinstance(error, BrokenPipeError):
        text = error.strerror or str(error)
        _complain(f"{culprit}: {text}" if culprit else text)
