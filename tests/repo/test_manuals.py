"""The manuals are complete, and troff finds nothing wrong with them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ballonet.agent.configuration import configuration_keys
from ballonet.cli.main import VERBS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def manuals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("manuals")
    subprocess.run([sys.executable, str(ROOT / "scripts" / "manuals"), str(folder)], check=True)
    return folder


def shown(page: Path) -> tuple[str, str]:
    """As a terminal shows it, and what troff complains of."""
    command = ["groff", "-man", "-Tutf8", "-ww", "-P-cbou", str(page)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout, done.stderr


def test_there_is_one_for_every_verb_and_none_has_a_fault(manuals: Path) -> None:
    pages = {page.name for page in manuals.iterdir()}
    assert pages > {f"ballonet-{verb}.1" for verb in VERBS}
    assert {"ballonet.1", "ballonet.toml.5", "ballonet-autopilot-reserve.1"} <= pages
    for page in manuals.iterdir():
        text, complaints = shown(page)
        assert complaints == "", page.name
        assert text.count("NAME") >= 1
        assert "SEE ALSO" in text


def test_options_and_keys_stand_in_them_as_they_are_typed(manuals: Path) -> None:
    text, _ = shown(manuals / "ballonet-set.1")
    assert "--deadline TIME" in text
    assert "--force" in text
    text, _ = shown(manuals / "ballonet.toml.5")
    for key in configuration_keys():
        assert f"{key.name} = " in text
        assert f"[{key.table}]" in text
