"""Programs that a test starts."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.wait import PATIENCE_S, wait_until

_LISTENS = 0x10000  # __SO_ACCEPTCON


@contextmanager
def started(command: Sequence[str | Path], **options: Any) -> Iterator[subprocess.Popen[Any]]:  # noqa: ANN401 - Popen's
    """A program, waited for at the end; killed where a test fails, so that its failure is seen."""
    with subprocess.Popen(command, **options) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise


def is_listening(path: Path) -> bool:
    """Somebody listens at a socket: it is there a moment before that."""
    for line in Path("/proc/net/unix").read_text(encoding="utf-8").splitlines()[1:]:
        fields = line.split(maxsplit=7)
        if fields[7:] == [str(path)]:
            return bool(int(fields[3], 16) & _LISTENS)
    return False


def wait_for_listener(path: Path) -> None:
    """Until somebody listens at a socket. Raises: AssertionError."""
    wait_until(lambda: is_listening(path), PATIENCE_S, f"nobody listens at {path}")


def connected(path: Path) -> socket.socket:
    """A connection to a socket, once somebody listens there. Raises: AssertionError."""

    def connect() -> socket.socket | None:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            sock.close()
            return None
        sock.settimeout(PATIENCE_S)
        return sock

    return wait_until(connect, PATIENCE_S, f"nobody listens at {path}")
