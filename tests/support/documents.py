"""What a document shows, and what is printed: compared by their words, figures aside."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

PROGRAMS: Final = Path(sys.executable).parent
ENVIRONMENT: Final = {**os.environ, "PATH": f"{PROGRAMS}:{os.environ['PATH']}"}


def block(document: Path, after: str, number: int = 1) -> str:
    """The first, or a later, printed block after some words of a document."""
    rest = document.read_text(encoding="utf-8").partition(after)[2]
    assert rest, f"{document} does not say {after!r}"
    return rest.split("```\n")[2 * number - 1]


def masked(text: str) -> str:
    """Words only: no borders, no widths, any figure as N."""
    text = re.sub("[\u2500-\u257f]+", " ", text)
    text = re.sub("[█░·]+…?", "BAR", text)
    text = re.sub(r"\d[\d.,]*", "N", text)
    text = " ".join(text.split())  # a line may end between a figure and its unit
    return re.sub(r"N (B|KiB|MiB|GiB|ms|s)\b", "N unit", text)


def masked_lines(text: str) -> list[str]:
    """Each line that says something."""
    return [masked(line) for line in text.splitlines() if line.strip()]


def printed(command: str, folder: Path, columns: int = 80) -> str:
    """What a command of a document prints."""
    done = subprocess.run(
        ["sh", "-ec", command],
        cwd=folder,
        env=ENVIRONMENT | {"COLUMNS": str(columns)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
