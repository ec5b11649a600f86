"""The reference is what the source says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_reference_is_made_from_the_tables_of_the_source() -> None:
    made = subprocess.run(
        [sys.executable, ROOT / "scripts" / "reference"], capture_output=True, text=True, check=True
    )
    assert (ROOT / "docs" / "reference.md").read_text(encoding="utf-8") == made.stdout
