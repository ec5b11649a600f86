"""Everything that a program has started, known by a word in the environment that it hands down."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final
from uuid import uuid4

from tests.support.wait import wait_until

GONE_S: Final = 30.0


class Family:
    """A program and its descendants, whoever their parent is by now."""

    def __init__(self, process: subprocess.Popen[bytes], word: str, folder: Path) -> None:
        self.process: Final = process
        self._word, self._folder = word.encode(), folder
        self._guests: set[Path] = set()

    def members(self) -> dict[int, str]:
        """Living processes, and the program that each of them runs."""
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError):
                    if self._word in (entry / "environ").read_bytes():
                        found[int(entry.name)] = (entry / "comm").read_text().strip()
                        self._note_guest((entry / "cmdline").read_text())
        return found

    def runs(self, program: str) -> bool:
        """One of them runs this program."""
        return any(name.startswith(program) for name in self.members().values())

    def files(self) -> list[Path]:
        """What they have in the folder for temporary files, and directories of guests seen."""
        return [*self._folder.iterdir(), *(path for path in self._guests if path.exists())]

    def assert_gone(self) -> None:
        """Nothing of it remains. Raises: AssertionError."""
        try:
            wait_until(lambda: not self.members(), GONE_S, "processes are left")
        except AssertionError as error:
            raise AssertionError(f"processes are left: {self.members()}") from error
        wait_until(lambda: not self.files(), GONE_S, f"files are left: {self.files()}")

    def _note_guest(self, command_line: str) -> None:
        for argument in command_line.split("\0"):
            mark, _, directory = argument.partition("=")
            if mark in {"uml_dir", "guest"} and directory.startswith("/"):
                self._guests.add(Path(directory))


@contextmanager
def family(command: list[str | Path], folder: Path) -> Iterator[Family]:
    """Start a program whose temporary files go into `folder`; it is killed at the end."""
    # A shell that runs tests in the background has them, and so our child, ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    word = f"BALLONET_FAMILY={uuid4()}"
    name, _, value = word.partition("=")
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(folder), name: value},
    ) as process:
        found = Family(process, word, folder)
        try:
            yield found
        finally:
            process.kill()
