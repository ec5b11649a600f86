"""What an experiment keeps is saved where it is wanted, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from ballonet.cli.lab import lab
from ballonet.lab.experiment import Experiment, Kernel
from ballonet.lab.notebook import Notebook


def run(notebook: Notebook) -> None:
    notebook.runs_on("", "nothing")
    notebook.keep("a-line.svg", "<svg/>\n")
    notebook.claim("one is one", holds=True)
    notebook.conclude("So it is.")


EXPERIMENT = Experiment("a-line", "Is it?", "It is.", "Always.", ("here",), {Kernel.HOST: run})


def test_files_are_written_if_a_directory_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ballonet.cli.lab.find", lambda _: EXPERIMENT)
    saved = tmp_path / "new" / "files"
    done = CliRunner().invoke(lab, ["mem-total", "--save", str(saved)])
    assert done.exit_code == 0
    assert "So it is." in done.output
    assert [(path.name, path.read_text()) for path in saved.iterdir()] == [
        ("a-line.svg", "<svg/>\n")
    ]
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(lab, ["mem-total"]).exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
