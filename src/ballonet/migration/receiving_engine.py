"""The process that receives a guest which may go on before its memory is there.

`python -m ballonet.migration.receiving_engine FD`: FD is the link to the guest's machine, which has
handed its channel over after BEGIN.  When memory is to follow the guest, others receive that.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from contextlib import suppress

from ballonet.errors import BallonetError, MigrationError
from ballonet.migration.arriving_guest import ArrivingGuest
from ballonet.migration.followed_guest import FollowedGuest
from ballonet.migration.following_processes import follow
from ballonet.migration.link import EngineLink

__all__ = ["main"]


def main(fd: int) -> int:
    """Receive a guest for the machine at the other end of the link; returns the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the machine's: it ends, and so do we
    with socket.socket(fileno=fd) as sock:
        link = EngineLink(sock)
        try:
            order, _ = link.ask("order")
            guest = ArrivingGuest(link, order)
        except BallonetError:
            return os.EX_IOERR
        try:
            guest.receive()
            if not guest.incoming.is_complete:
                return follow(guest, FollowedGuest(guest))
            guest.go_on_whole()
            link.tell("status", status="completed", reason=None)
        except BallonetError as error:
            guest.answers.give_up(str(error))
            with suppress(MigrationError):
                link.tell("status", status="failed", reason=str(error))
            return os.EX_SOFTWARE
    return os.EX_OK


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
