"""A real terminal: tmux, of a given size, with a shell in it; what is typed, and what it shows."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

import pytest
from tests.support.programs import wait_for_listener
from tests.support.wait import PATIENCE_S, wait_until

_SETTINGS: Final = """
set -g status off
set -g escape-time 0
set -g default-terminal screen-256color
"""
#: Each look at the screen is a program of its own.
_LOOK_S: Final = 0.05


class Terminal:
    """A context manager; the shell waits for a command inside."""

    def __init__(self, folder: Path, columns: int, lines: int, **environment: str) -> None:
        """`folder`: for what belongs to this terminal, with a short path."""
        if shutil.which("tmux") is None:
            pytest.skip("tmux is not installed; scripts/system-packages installs it")
        self._socket, self._settings = folder / "tmux.socket", folder / "tmux.conf"
        self._settings.write_text(_SETTINGS, encoding="utf-8")
        self._size = ("-x", str(columns), "-y", str(lines))
        programs = Path(sys.executable).parent
        path = f"{programs}:{os.environ['PATH']}"
        given = {"PATH": path, "LC_ALL": "C.UTF-8"}
        without = ("COLUMNS", "LINES", "NO_COLOR", "TMUX", "ENV", "PS1")
        kept = {name: value for name, value in os.environ.items() if name not in without}
        self._environment, self._folder = kept | given | environment, folder

    def __enter__(self) -> Self:
        # A server that is no daemon: it ends with us.
        command: list[str | Path] = ["tmux", "-D", "-S", self._socket, "-f", self._settings]
        self._server = subprocess.Popen(command, env=self._environment, cwd=self._folder)
        try:
            wait_for_listener(self._socket)
            self._tmux("new-session", "-d", "-c", str(self._folder), *self._size, "sh -i")
            self.wait_for(lambda text: text.strip() in ("$", "#"), "a prompt")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._server.terminate()
        self._server.wait(PATIENCE_S)

    def run(self, command: str) -> None:
        """Type a command, and enter."""
        self._tmux("send-keys", "-l", "--", command)
        self.press("Enter")

    def press(self, *keys: str) -> None:
        """Keys, by tmux's names: Enter, Escape, Up, C-c; others are letters."""
        self._tmux("send-keys", "--", *keys)

    def lines(self) -> list[str]:
        """What is on the screen, without what is empty at the end."""
        return self._tmux("capture-pane", "-p").rstrip("\n").split("\n")

    def wait_for(self, predicate: Callable[[str], bool] | str, message: str = "") -> str:
        """The screen, once a text is on it, or it is as it has to be. Raises: AssertionError."""
        wanted = predicate
        is_there = (lambda text: wanted in text) if isinstance(wanted, str) else wanted
        seen = ""

        def look() -> bool:
            nonlocal seen
            seen = "\n".join(self.lines())
            return is_there(seen)

        try:
            wait_until(look, PATIENCE_S, message, every_s=_LOOK_S)
        except AssertionError:
            raise AssertionError(f"not shown: {message or wanted}\n{seen}") from None
        return seen

    def resize(self, columns: int, lines: int) -> None:
        """As a person would."""
        self._tmux("resize-window", "-x", str(columns), "-y", str(lines))

    def told(self, variable: str) -> str:
        """What tmux knows of it, such as cursor_flag."""
        return self._tmux("display-message", "-p", f"#{{{variable}}}").strip()

    def child(self) -> int:
        """The process that the shell has started."""
        shell = int(self.told("pane_pid"))
        path = Path(f"/proc/{shell}/task/{shell}/children")
        return int(wait_until(lambda: path.read_text().split(), PATIENCE_S, "no child")[0])

    def _tmux(self, *words: str) -> str:
        done = subprocess.run(
            ["tmux", "-S", self._socket, *words],
            capture_output=True,
            encoding="utf-8",
            env=self._environment,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout
